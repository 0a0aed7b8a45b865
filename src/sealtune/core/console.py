"""What the user sees while waiting: a bar on a terminal, plain lines elsewhere. Everything goes to stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from sealtune.core import distributed
from sealtune.core.sanitize import one_line

ERR = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
LINE_EVERY = 10.0
"""Seconds between two plain lines."""


class Advance(Protocol):
    """Tells the bar what was done since the last call; ``note`` stands behind it."""

    def __call__(self, steps: int, total: int | None, rows: int = 0, tokens: int = 0, note: str = "") -> None:
        """``steps`` of ``total`` (None: not known yet) are done by now; ``rows`` and ``tokens`` are new."""


def say(text: str) -> None:
    """One line to the user, from the first process."""
    if distributed.is_main_process():
        ERR.print(Text(one_line(text)))


@contextmanager
def track(title: str) -> Iterator[Advance]:
    """A progress display for one job: steps, rows, tokens per second, time left."""
    meter = _Meter()
    if not ERR.is_terminal or not distributed.is_main_process():
        yield _lines(title, meter)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(24), MofNCompleteColumn())
    with Progress(
        *columns, TextColumn("{task.fields[note]}", markup=False), TimeRemainingColumn(), console=ERR
    ) as progress:
        task = progress.add_task(one_line(title), total=None, note="")

        def advance(steps: int, total: int | None, rows: int = 0, tokens: int = 0, note: str = "") -> None:
            meter.add(rows, tokens)
            progress.update(task, completed=steps, total=total, note=one_line(f"{meter.text()} {note}"))

        yield advance


def _lines(title: str, meter: _Meter) -> Advance:
    started = last = time.monotonic()
    first: int | None = None

    def advance(steps: int, total: int | None, rows: int = 0, tokens: int = 0, note: str = "") -> None:
        nonlocal started, last, first
        meter.add(rows, tokens)
        now = time.monotonic()
        if total is None:  # the job itself has not begun
            started, first = now, 0
        elif first is None:  # a resumed job does not begin at step 1
            first = steps - 1
        if now - last < LINE_EVERY and steps != total:
            return
        last = now
        if total is None:
            say(f"{title}: {steps:,}  {note}".rstrip())
        else:
            left = (now - started) / max(steps - (first or 0), 1) * (total - steps)
            say(f"{title}: {steps}/{total}  {meter.text()}  {duration(left)} left  {note}".rstrip())

    return advance


class _Meter:
    """Rows and tokens since the start."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.rows = self.tokens = 0

    def add(self, rows: int, tokens: int) -> None:
        self.rows += rows
        self.tokens += tokens

    def text(self) -> str:
        rate = self.tokens / max(time.monotonic() - self.started, 1e-6)
        parts = [f"{self.rows:,} rows"] if self.rows else []
        return "  ".join([*parts, f"{rate:,.0f} tokens/s"] if self.tokens else parts)


def duration(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
