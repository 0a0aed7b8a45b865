"""``sealtune repair`` on the terminal: the base that an adapter names, and the table of what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from sealtune.tuning.repair import Repaired


def base_of(adapter: Path, config: Path | None) -> str | None:
    """The base model that the adapter names; None if a config names one, or the folder is no adapter."""
    from sealtune.models.adapter_folder import is_adapter, read_base

    return read_base(adapter).name if config is None and is_adapter(adapter) else None


def show(done: Repaired) -> None:
    """Print the table and what was done."""
    from sealtune.pipeline.repair import describe, table

    shown = Table("on safe rows not learned from", "start model", "as it was", "repaired")
    for row in table(done):
        shown.add_row(*row)
    console = Console()
    console.print(shown)
    console.print(describe(done), markup=False)


def to_json(done: Repaired) -> dict[str, object]:
    """The same as plain data."""
    from sealtune.pipeline.repair import describe, table

    columns = ("measure", "start_model", "as_it_was", "repaired")
    return {"summary": describe(done), "table": [dict(zip(columns, row, strict=True)) for row in table(done)]}
