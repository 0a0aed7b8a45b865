"""The errors that a user reads: one line, and an exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from signal import SIGTERM
from typing import TYPE_CHECKING

from sealtune.core.sanitize import one_line

if TYPE_CHECKING:
    pass


class UserError(Exception):
    """A fault in the input that the user can mend: one line that names the file, the row and the fix. Exit code 2.

    Each argument is a line. What it quotes cannot write another one, nor show a key.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(map(one_line, lines)))


class RunError(Exception):
    """A fault while running (a NaN loss, a full disk): one line, exit code 1; what was finished is kept."""

    code = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class StoppedError(RunError):
    """The run was asked to end and saved what there was to save. Exit code 1 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.code = 143 if signal_number == SIGTERM else 1


def did_you_mean(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """The question that names the nearest of ``names``; empty where none is near (``cutoff`` in [0, 1])."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return f"did you mean {near[0]!r}?" if near else ""
