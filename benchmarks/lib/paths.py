"""Where the benchmarks find their data: labelled rows if they are on this machine, else those of the quickstart."""

from __future__ import annotations

import os
from pathlib import Path

DATA = Path(os.environ.get("SEALTUNE_DATA", "data"))
"""Folder of labelled rows: ``mixtures/*.jsonl``, ``safe/*.jsonl`` and ``prompts/*.jsonl``."""

QUICKSTART = Path("examples/quickstart")


def labelled_or_quickstart(labelled: str, quickstart: str) -> Path:
    """A file of DATA if it exists, else a file of the quickstart."""
    return DATA / labelled if (DATA / labelled).is_file() else QUICKSTART / quickstart
