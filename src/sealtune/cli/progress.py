"""What the command line shows on stderr: a line per log record, and progress bars on a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sealtune.core import console, distributed
from sealtune.core.sanitize import one_line


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
def _bar(title: str) -> Iterator[console.Advance]:
    if not distributed.is_main_process():
        with console.log_progress(title) as advance:
            yield advance
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    throughput = console.Throughput()
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False, markup=False, soft_wrap=True),
    ) as progress:
        task = progress.add_task(one_line(title), total=None, note="")

        def advance(steps: int, total: int | None, rows: int = 0, tokens: int = 0, note: str = "") -> None:
            throughput.add(rows, tokens)
            progress.update(task, completed=steps, total=total, note=one_line(f"{throughput} {note}"))

        yield advance
