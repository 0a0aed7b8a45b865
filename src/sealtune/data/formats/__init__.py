"""Row formats, one file per format; the file's name is the format's name in the config.

A format is a module with ``COLUMNS``, the columns that it needs, and ``read``, which turns a row into a conversation.
``OPTIONAL`` are further columns that it reads where they are present.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Protocol, cast

from sealtune.core.errors import UserError
from sealtune.core.types import Message
from sealtune.data.turns import UnusableRow, conversation, message, text, turns

__all__ = ["Reader", "UnusableRow", "conversation", "message", "text", "turns"]

PREFERENCE = "hh_rlhf"
"""If such rows have ``messages`` too, those are the chosen conversation."""

PROMPT_WORDS = ("prompt", "question", "query", "instruction", "input", "user", "human", "problem")
RESPONSE_WORDS = ("response", "answer", "output", "completion", "reply", "solution", "assistant", "bot", "target")


class Reader(Protocol):
    """The interface of a format module."""

    COLUMNS: frozenset[str]

    def read(self, row: Mapping[str, Any]) -> tuple[Message, ...]:
        """The conversation of a row. Raises UnusableRow."""


@cache
def readers() -> dict[str, Reader]:
    """All formats by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: cast(Reader, importlib.import_module(f"{__name__}.{name}")) for name in names}


def get(name: str) -> Reader:
    """The format with this name. Raises UserError that lists the known ones."""
    if name not in readers():
        raise UserError(f"format: no row format {name!r}; known: {', '.join(readers())}")
    return readers()[name]


def columns_of(reader: Reader) -> frozenset[str]:
    """All columns that a format reads."""
    optional: frozenset[str] = getattr(reader, "OPTIONAL", frozenset())
    return reader.COLUMNS | optional


def matching(columns: Iterable[str]) -> list[str]:
    """Names of the formats whose columns are all present; only those that need the most columns."""
    present = set(columns)
    sizes = {name: len(reader.COLUMNS) for name, reader in readers().items() if present >= reader.COLUMNS}
    names = [name for name, size in sizes.items() if size == max(sizes.values())]
    return [name for name in names if name != PREFERENCE] if "messages" in names else names


def detect(columns: Iterable[str]) -> str:
    """Name of the format that these columns match. Raises UserError if none matches, or two match equally well."""
    found = sorted(columns)
    names = matching(found)
    if len(names) == 1:
        return names[0]
    if names:
        raise UserError(f"the columns fit {' and '.join(names)}; choose one with `format`")
    raise UserError(
        f"columns of no known format ({', '.join(found)}); name the prompt and the response, as in "
        f"`columns: {{prompt: {_guess(found, PROMPT_WORDS, 'PROMPT')}, "
        f"response: {_guess(found, RESPONSE_WORDS, 'RESPONSE')}}}`; known formats: "
        + "; ".join(f"{name}: {', '.join(sorted(reader.COLUMNS))}" for name, reader in readers().items())
    )


def _guess(columns: list[str], words: Iterable[str], otherwise: str) -> str:
    """The column whose name tells most that it is meant."""
    names = (column for word in words for column in columns if word in column.lower())
    return next(names, f"{otherwise}_COLUMN")
