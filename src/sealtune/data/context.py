"""What stands beside the turns of a row: the system prompt, earlier turns and tools, in any of their usual columns."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from itertools import takewhile
from typing import Any, NamedTuple

from sealtune.core.types import Message
from sealtune.data.turns import MEDIA_KEYS, UnusableRow, as_list, message, parse_json, read_mark, text, turns

SYSTEM_COLUMNS = (
    *("system", "system_prompt", "system_message", "system_instruction", "system_instructions", "sys_prompt"),
)
HISTORY_COLUMNS = ("history", "chat_history", "conversation_history", "dialogue_history", "previous_turns")
TOOL_COLUMNS = ("tools", "functions", "available_tools")
PROMPT_COLUMNS = ("prompt", "question", "query", "instruction")
"""For conversations that begin with the assistant: where the prompt may be."""
MARK_COLUMNS = ("train", "weight", "loss_weight", "sample_weight")
"""Columns that say whether a row is trained on."""
COLUMNS = frozenset({*SYSTEM_COLUMNS, *HISTORY_COLUMNS, *TOOL_COLUMNS, *MARK_COLUMNS, *MEDIA_KEYS})


class Conversation(NamedTuple):
    """The messages of a row, the JSON schemas of the tools that it declares, and what could not be used of it."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()


def add_context(messages: tuple[Message, ...], row: Mapping[str, Any], used: frozenset[str]) -> Conversation:
    """The whole conversation of a row.

    Args:
        messages: What the format has read.
        row: The row.
        used: Columns that the format has read.

    Raises:
        UnusableRow: a column that carries meaning cannot be used.
    """
    if COLUMNS.isdisjoint(row) and messages[0].role != "assistant":
        return Conversation(messages)
    columns = row.keys() & COLUMNS - used
    _require_text_only(row)
    notes = _read_marks(row, columns)
    opening = tuple(takewhile(lambda turn: turn.role == "system", messages))
    whole = (*opening, *_history(row, columns), *_prompt(messages, row, used), *messages[len(opening) :])
    return Conversation(_with_system(whole, row, columns), _tools(row, columns), notes)


def _require_text_only(row: Mapping[str, Any]) -> None:
    for column in MEDIA_KEYS:
        if _is_given(row.get(column)):
            raise UnusableRow("not_text", f"the row has {column!r}; only text can be trained on")


def _read_marks(row: Mapping[str, Any], columns: Collection[str]) -> tuple[str, ...]:
    """Notes on marks that cannot be read. Raises UnusableRow if the row is marked as not to be trained on."""
    notes = []
    for column in MARK_COLUMNS:
        if column not in columns or row[column] is None:
            continue
        try:
            trained = read_mark(column, row[column])
        except UnusableRow:
            notes.append(f"their {column!r} is neither 0 nor 1, and is not used")
        else:
            if not trained:
                raise UnusableRow("marked_not_to_train", f"the row is marked as not to be trained on ({column!r})")
    return tuple(notes)


def _prompt(messages: tuple[Message, ...], row: Mapping[str, Any], used: Collection[str]) -> list[Message]:
    """The prompt, if it is in a column of its own and the conversation has none."""
    if any(turn.role == "user" for turn in messages):
        return []
    column = next((name for name in PROMPT_COLUMNS if name not in used and _is_given(row.get(name))), None)
    return [] if column is None else turns(row[column], "user")


def _history(row: Mapping[str, Any], columns: Collection[str]) -> list[Message]:
    """Earlier turns: a list of turns, or of pairs of a prompt and a response."""
    earlier: list[Message] = []
    for column in HISTORY_COLUMNS:
        if column not in columns or not _is_given(row[column]):
            continue
        found = as_list(row[column]) or parse_json(row[column])
        if not isinstance(found, list):
            raise UnusableRow("unclear_history", f"{column!r} is neither a list of turns nor of pairs")
        if all(_is_pair(item) for item in found):
            roles = ("user", "assistant")
            earlier += [message(role, part) for pair in found for role, part in zip(roles, pair, strict=True)]
        else:
            earlier += turns(found, "user")
    return [turn for turn in earlier if turn.role != "user" or turn.content.strip()]


def _is_pair(item: Any) -> bool:
    return isinstance(item, list | tuple) and len(item) == 2 and all(isinstance(part, str) for part in item)


def _with_system(
    messages: tuple[Message, ...], row: Mapping[str, Any], columns: Collection[str]
) -> tuple[Message, ...]:
    """The messages after the system prompt of a column. Raises UnusableRow if a turn has another one."""
    given = dict.fromkeys(text(row[name]) for name in SYSTEM_COLUMNS if name in columns and _is_given(row[name]))
    if not given:
        return messages
    if len(given | dict.fromkeys(turn.content for turn in messages if turn.role == "system")) > 1:
        raise UnusableRow("two_system_prompts", "a column and a turn have system prompts that differ; remove one")
    return (Message("system", next(iter(given))), *(turn for turn in messages if turn.role != "system"))


def _tools(row: Mapping[str, Any], columns: Collection[str]) -> tuple[Mapping[str, Any], ...]:
    found: list[Any] = []
    for column in TOOL_COLUMNS:
        value = row.get(column) if column in columns else None
        if isinstance(value, str) and value.strip():
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise UnusableRow("unclear_tools", f"{column!r} is not JSON") from None
        if _is_given(value):
            found += value if isinstance(value, list | tuple) else [value]
    for tool in found:
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise UnusableRow("unclear_tools", "a tool is not a JSON schema with a name")
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in found)


def _is_given(value: Any) -> bool:
    """Whether a column has a value; blank texts and empty lists have none."""
    if isinstance(value, str):
        return bool(value.strip()) and value.strip() not in ("[]", "{}", "null", "None")
    return value is not None and not (hasattr(value, "__len__") and len(value) == 0) and value == value
