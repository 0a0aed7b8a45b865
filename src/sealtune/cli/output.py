"""What commands print on stdout: lines and JSON that cannot move the cursor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from sealtune.core.sanitize import escape_unprintable


def print_line(text: object) -> None:
    """Print one line to stdout."""
    typer.echo(escape_unprintable(str(text)))


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object to stdout, as one line of ASCII."""
    import json

    from sealtune.core.json_rows import nan_to_null, to_json_type

    typer.echo(json.dumps(nan_to_null(content), default=to_json_type))
