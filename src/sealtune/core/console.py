"""Progress of long jobs. By default it is logged; the command line draws bars on a terminal instead."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

logger = logging.getLogger(__name__)

LOG_INTERVAL = 10.0
"""Seconds between two log lines of one job."""


class Advance(Protocol):
    """Reports the progress of one job."""

    def __call__(self, steps: int, total: int | None, rows: int = 0, tokens: int = 0, note: str = "") -> None:
        """Report progress.

        Args:
            steps: Steps done since the start.
            total: Steps in total; None if it is not known yet.
            rows: Rows processed since the last call.
            tokens: Tokens processed since the last call.
            note: Shown at the end of the line.
        """


Display = Callable[[str], AbstractContextManager[Advance]]
"""Shows the progress of the job with this title."""


def track(title: str) -> AbstractContextManager[Advance]:
    """Show the progress of one job: steps, rows, tokens per second, time left."""
    return _display(title)


def set_display(display: Display) -> None:
    """Replace how ``track`` shows progress."""
    global _display
    _display = display


def get_display() -> Display:
    """How ``track`` shows progress."""
    return _display


@contextmanager
def log_progress(title: str) -> Iterator[Advance]:
    """Log the progress about every ``LOG_INTERVAL`` seconds, and the last step."""
    yield _ProgressLog(title)


_display: Display = log_progress


class _ProgressLog:
    def __init__(self, title: str) -> None:
        self.title = title
        self.throughput = Throughput()
        self.started = self.logged = time.monotonic()
        self.first_step: int | None = None

    def __call__(self, steps: int, total: int | None, rows: int = 0, tokens: int = 0, note: str = "") -> None:
        self.throughput.add(rows, tokens)
        now = time.monotonic()
        if total is None:  # preparation: the timed work starts after it
            self.started, self.first_step = now, 0
        elif self.first_step is None:  # a resumed job does not start at step 1
            self.first_step = steps - 1
        if now - self.logged >= LOG_INTERVAL or steps == total:
            self.logged = now
            logger.info("%s", f"{self.title}: {self._text(steps, total, now)}  {note}".rstrip())

    def _text(self, steps: int, total: int | None, now: float) -> str:
        if total is None:
            return f"{steps:,}"
        seconds_per_step = (now - self.started) / max(steps - (self.first_step or 0), 1)
        left = format_duration(seconds_per_step * (total - steps))
        return f"{steps}/{total}  {self.throughput}  {left} left"


class Throughput:
    """Counts rows and tokens since it was created."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.rows = self.tokens = 0

    def add(self, rows: int, tokens: int) -> None:
        """Count further rows and tokens."""
        self.rows += rows
        self.tokens += tokens

    def __str__(self) -> str:
        rate = self.tokens / max(time.monotonic() - self.started, 1e-6)
        parts = [f"{self.rows:,} rows"] if self.rows else []
        return "  ".join([*parts, f"{rate:,.0f} tokens/s"] if self.tokens else parts)


def format_duration(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
