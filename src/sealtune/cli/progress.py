"""What the command line shows on stderr: a line per log record, and progress bars on a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import TYPE_CHECKING

from sealtune.core import console, distributed
from sealtune.core.sanitize import one_line

if TYPE_CHECKING:
    from rich.progress import Progress

_shown: list[Progress] = []
"""The display of the outermost job, if there is one."""


class LineHandler(logging.Handler):
    """Prints each record of the main process as one sanitised line.

    It writes to the current ``sys.stderr``, which rich replaces while a bar is shown: lines appear above the bar.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record."""
        if distributed.is_main_process():
            print(one_line(record.getMessage()), file=sys.stderr, flush=True)


def show_log() -> None:
    """Print the log of sealtune."""
    logger = logging.getLogger("sealtune")
    logger.handlers = [LineHandler()]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def show_bars() -> None:
    """Show bars in place of log lines, if stderr is a terminal."""
    if sys.stderr.isatty():
        console.set_display(_bar)


@contextmanager
def working(*, quiet: bool, as_json: bool) -> Iterator[None]:
    """What is shown while a command works: with ``quiet`` only errors; with ``as_json`` nothing on stdout.

    Libraries print to stdout, too; it is given to stderr, so that a script finds the result alone.
    """
    logger, display = logging.getLogger("sealtune"), console.get_display()
    level = logger.level
    if quiet:
        logger.setLevel(logging.ERROR)
        console.set_display(_nothing)
    try:
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            yield
    finally:
        logger.setLevel(level)
        console.set_display(display)


@contextmanager
def _nothing(title: str) -> Iterator[console.Advance]:
    yield lambda steps, total, rows=0, tokens=0, note="": None


@contextmanager
def _bar(title: str) -> Iterator[console.Advance]:
    if not distributed.is_main_process():
        with console.log_progress(title) as advance:
            yield advance
        return
    throughput = console.Throughput()
    with _live_progress() as progress:
        task = progress.add_task(one_line(title), total=None, note="")

        def advance(steps: int, total: int | None, rows: int = 0, tokens: int = 0, note: str = "") -> None:
            throughput.add(rows, tokens)
            progress.update(task, completed=steps, total=total, note=one_line(f"{throughput} {note}"))

        yield advance


@contextmanager
def _live_progress() -> Iterator[Progress]:
    """The bars that are shown; a job within another one adds its bar to these, as there can be only one display."""
    if _shown:
        yield _shown[-1]
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False, markup=False, soft_wrap=True),
    ) as progress:
        _shown.append(progress)
        try:
            yield progress
        finally:
            _shown.remove(progress)
