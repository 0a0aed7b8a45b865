"""A histogram of scores on the terminal, one line per bin: what is kept and what is dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

BINS = 16
MIN_BAR, MAX_BAR = 8, 100


class Marks(NamedTuple):
    """The characters of a histogram."""

    kept: str
    dropped: str
    line: str


BLOCKS, ASCII = Marks("█", "░", "─"), Marks("#", ".", "-")
KEPT, DROPPED, OPEN = "green", "red", "cyan"
"""Colours of rows kept and dropped, and of rows before the selection."""


def histogram(bins: Sequence[Mapping[str, Any]], threshold: float | None, console: Console) -> Iterator[Text]:
    """The lines: from the lowest score to the highest, with the threshold between two bins, then what is what."""
    marks = BLOCKS if console.encoding.lower().startswith("utf") else ASCII
    most = max(int(found["rows"]) for found in bins)
    labels = [f"{found['from']:.2f}" for found in bins]
    indent, digits = max(map(len, labels)), len(f"{most:,}")
    room = min(MAX_BAR, max(MIN_BAR, console.width - indent - digits - 3))
    is_above = False
    for label, found in zip(labels, bins, strict=True):
        if threshold is not None and not is_above and found["to"] > threshold + 1e-9 * (found["to"] - found["from"]):
            is_above = True
            text = f" threshold {threshold:.3g} "
            yield Text(f"{'':{indent}} {marks.line * 2}{text}".ljust(indent + 1 + room, marks.line), style="bold")
        bar = _bar(found, room / most, marks)
        yield Text.assemble(f"{label:>{indent}} ", bar, f"{'':{room - len(bar)}} {found['rows']:>{digits},}")
    if bins[0]["kept"] is not None:
        yield Text.assemble(" " * (indent + 1), (marks.kept, KEPT), " kept  ", (marks.dropped, DROPPED), " dropped")


def _bar(found: Mapping[str, Any], cells_per_row: float, marks: Marks) -> Text:
    """Dropped rows, then kept ones; every kind of which there are any has at least one cell."""
    if found["kept"] is None:
        return Text(marks.kept * _cells(found["rows"], cells_per_row), style=OPEN)
    whole = _cells(found["rows"], cells_per_row)
    dropped = found["rows"] - found["kept"]
    first = min(_cells(dropped, cells_per_row), whole - bool(found["kept"])) if dropped else 0
    return Text.assemble((marks.dropped * first, DROPPED), (marks.kept * (whole - first), KEPT))


def _cells(rows: int, cells_per_row: float) -> int:
    return max(1, round(rows * cells_per_row)) if rows else 0
