"""Row formats, one file each; the file's name is the format's name in the config.

A format is a module with ``COLUMNS``, the columns it needs, and ``read``, which makes a conversation of a row.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Protocol, cast

from sealtune.core.errors import UserError
from sealtune.core.types import Message

ROLES = frozenset({"system", "user", "assistant", "tool"})


class UnusableRow(Exception):  # noqa: N818 - a finding about a row, not a fault of the program
    """A row that cannot be trained on; ``reason`` is a slug that reports count, ``detail`` a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Reader(Protocol):
    """What a module of this folder offers."""

    COLUMNS: frozenset[str]

    def read(self, row: Mapping[str, Any]) -> tuple[Message, ...]:
        """The conversation of a row. Raises UnusableRow."""


@cache
def readers() -> dict[str, Reader]:
    """The formats of this folder by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: cast(Reader, importlib.import_module(f"{__name__}.{name}")) for name in names}


def get(name: str) -> Reader:
    """The format of this name. Raises UserError that lists the known ones."""
    if name not in readers():
        raise UserError(f"format: no row format {name!r}; known: {', '.join(readers())}")
    return readers()[name]


def fitting(columns: Iterable[str]) -> list[str]:
    """Names of the formats whose columns are all there, those that need most columns alone."""
    present = set(columns)
    sizes = {name: len(reader.COLUMNS) for name, reader in readers().items() if present >= reader.COLUMNS}
    return [name for name, size in sizes.items() if size == max(sizes.values())]


def detect(columns: Iterable[str]) -> str:
    """Name of the format these columns are of. Raises UserError where none fits, or where two fit equally well."""
    found = sorted(columns)
    names = fitting(found)
    if len(names) == 1:
        return names[0]
    if names:
        raise UserError(f"the columns fit {' and '.join(names)}; say which with `format`")
    known = "; ".join(f"{name}: {', '.join(sorted(reader.COLUMNS))}" for name, reader in readers().items())
    raise UserError(f"columns of no known format ({', '.join(found)}); known formats: {known}; rename with `columns`")


def conversation(turns: Iterable[tuple[Any, Any]]) -> tuple[Message, ...]:
    """Checked messages of (role, content) pairs; blank system messages are left out.

    Raises:
        UnusableRow: a role that is not known, a content that is not text, a blank answer or no answer at all.
    """
    messages = [Message(_role(role), text(content)) for role, content in turns]
    answers = [message for message in messages if message.role == "assistant"]
    if not answers:
        raise UnusableRow("no_assistant_turn", "no turn of the assistant to learn from")
    if not all(answer.content.strip() for answer in answers):
        raise UnusableRow("empty_response", "a turn of the assistant is blank")
    return tuple(message for message in messages if message.role != "system" or message.content.strip())


def turns(value: Any, role: str) -> list[tuple[Any, Any]]:
    """(role, content) pairs of a list of messages; any other value is one content of this role."""
    if not isinstance(value, list) or _is_parts(value):
        return [(role, value)]
    return [_turn(item) for item in value]


def text(value: Any) -> str:
    """A content as text: a string, or a list of text parts put together. Raises UnusableRow."""
    if isinstance(value, list) and _is_parts(value):
        value = "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise UnusableRow("not_text", f"a content is {type(value).__name__}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnusableRow("not_text", "a content holds half of a surrogate pair") from None
    return value


def _is_parts(value: list[Any]) -> bool:
    """Whether this is a content in parts, each of them text; an empty list is none."""
    kinds = [part.get("type") == "text" and isinstance(part.get("text"), str) for part in value if hasattr(part, "get")]
    return len(kinds) == len(value) > 0 and all(kinds)


def _turn(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, Mapping):
        raise UnusableRow("not_a_message", f"a turn is {type(item).__name__}, not an object with role and content")
    if item.get("tool_calls"):
        raise UnusableRow("tool_calls", "a turn calls tools; only text is learned")
    return item.get("role"), item.get("content")


def _role(role: Any) -> str:
    if not isinstance(role, str) or role not in ROLES:
        raise UnusableRow("unknown_role", f"no role {role!r}; known: {', '.join(sorted(ROLES))}")
    return str(role)
