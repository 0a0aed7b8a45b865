"""``python -m sealtune``."""

from sealtune.cli.main import main

main()
