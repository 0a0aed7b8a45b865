"""Errors that the user reads: one line and an exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from signal import SIGTERM

from sealtune.core.sanitize import one_line


class UserError(Exception):
    """Invalid input that the user can fix: one line that names the file, the row and the remedy. Exit code 2.

    Each argument becomes one sanitised line.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(map(one_line, lines)))


class RunError(Exception):
    """A failure while running (a NaN loss, a full disk): one line, exit code 1; finished work is kept."""

    code = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class StoppedError(RunError):
    """The run was interrupted and has saved its state. Exit code 1 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.code = 143 if signal_number == SIGTERM else 1


def did_you_mean(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """A suggestion of the closest of ``names``; empty if none is similar enough (``cutoff`` in [0, 1])."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return f"did you mean {close[0]!r}?" if close else ""
