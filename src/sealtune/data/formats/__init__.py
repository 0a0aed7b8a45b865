"""Row formats, one file per format; the file's name is the format's name in the config.

A format is a module with ``COLUMNS``, the columns that it needs, and ``read``, which turns a row into a conversation.
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


class UnusableRow(Exception):  # noqa: N818 - a property of the row, not an error of the program
    """A row that cannot be trained on; ``reason`` is a slug that reports count, ``detail`` a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


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


def matching(columns: Iterable[str]) -> list[str]:
    """Names of the formats whose columns are all present; only those that need the most columns."""
    present = set(columns)
    sizes = {name: len(reader.COLUMNS) for name, reader in readers().items() if present >= reader.COLUMNS}
    return [name for name, size in sizes.items() if size == max(sizes.values())]


def detect(columns: Iterable[str]) -> str:
    """Name of the format that these columns match. Raises UserError if none matches, or two match equally well."""
    found = sorted(columns)
    names = matching(found)
    if len(names) == 1:
        return names[0]
    if names:
        raise UserError(f"the columns fit {' and '.join(names)}; choose one with `format`")
    known = "; ".join(f"{name}: {', '.join(sorted(reader.COLUMNS))}" for name, reader in readers().items())
    raise UserError(f"columns of no known format ({', '.join(found)}); known formats: {known}; rename with `columns`")


def conversation(turns: Iterable[tuple[Any, Any]]) -> tuple[Message, ...]:
    """Validated messages from (role, content) pairs; blank system messages are left out.

    Raises:
        UnusableRow: an unknown role, a content that is not text, a blank response, or no response.
    """
    messages = [Message(_role(role), text(content)) for role, content in turns]
    responses = [message for message in messages if message.role == "assistant"]
    if not responses:
        raise UnusableRow("no_assistant_turn", "no assistant turn to train on")
    if not all(response.content.strip() for response in responses):
        raise UnusableRow("empty_response", "an assistant turn is blank")
    return tuple(message for message in messages if message.role != "system" or message.content.strip())


def turns(value: Any, role: str) -> list[tuple[Any, Any]]:
    """(role, content) pairs of a list of messages; any other value is a single content with this role."""
    if not isinstance(value, list) or _is_content_parts(value):
        return [(role, value)]
    return [_turn(item) for item in value]


def text(value: Any) -> str:
    """A content as text: a string, or a list of text parts, which are joined. Raises UnusableRow."""
    if isinstance(value, list) and _is_content_parts(value):
        value = "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise UnusableRow("not_text", f"a content is {type(value).__name__}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnusableRow("not_text", "a content contains a lone surrogate") from None
    return value


def _is_content_parts(value: list[Any]) -> bool:
    """Whether this is a content in parts, all of type text; an empty list is not."""
    is_text = [
        part.get("type") == "text" and isinstance(part.get("text"), str) for part in value if hasattr(part, "get")
    ]
    return len(is_text) == len(value) > 0 and all(is_text)


def _turn(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, Mapping):
        raise UnusableRow("not_a_message", f"a turn is {type(item).__name__}, not an object with role and content")
    if item.get("tool_calls"):
        raise UnusableRow("tool_calls", "a turn calls tools; only text can be trained on")
    return item.get("role"), item.get("content")


def _role(role: Any) -> str:
    if not isinstance(role, str) or role not in ROLES:
        raise UnusableRow("unknown_role", f"no role {role!r}; known: {', '.join(sorted(ROLES))}")
    return str(role)
