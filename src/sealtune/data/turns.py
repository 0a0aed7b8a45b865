"""Turns as they are in the field, and what each becomes: a message, or the reason why it cannot be used.

Roles, keys and marks are read under all their usual names. What carries meaning and cannot be read makes the row
unusable, with a reason; it is never left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sealtune.core.types import Message


class UnusableRow(Exception):  # noqa: N818 - a property of the row, not an error of the program
    """A row that cannot be trained on; ``reason`` is a slug that reports count, ``detail`` a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter", "customer", "instruction", "question"),
    "assistant": ("assistant", "gpt", "chatgpt", "model", "bot", "ai", "chatbot", "bing", "bard", "claude", "answer"),
    "tool": ("tool", "function", "observation", "tool_response", "function_response", "tool_result", "ipython"),
}
"""Role of a message -> its spellings, in lower case."""
CALLS = ("function_call", "tool_call", "tool_calls")
"""Roles of turns in which the assistant calls tools; the content is JSON."""
ROLE_OF = {name: role for role, names in ROLES.items() for name in names} | dict.fromkeys(CALLS, "assistant")

PLAIN_TURN = {"role", "content"}
ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
CONTENT_KEYS = ("content", "value", "text", "message", "utterance")
THINKING_FIELD = "reasoning_content"
THINKING_KEYS = (THINKING_FIELD, "reasoning", "thinking", "thought", "thoughts")
MEDIA_KEYS = ("image", "images", "image_url", "audio", "audios", "video", "videos", "files", "attachments")
TRAIN_KEYS = (
    *("train", "training", "trainable", "do_train", "train_on", "train_on_turn", "learn", "learnable", "supervised"),
    *("weight", "loss", "loss_weight", "loss_scale", "loss_mask", "train_mask"),
)
"""Marks of a turn: false or 0 for context that is not learned."""
MASK_KEYS = ("mask", "masked", "is_masked", "ignore", "ignored", "ignore_loss", "no_loss", "no_train", "skip_loss")
"""Marks of a turn: true or 1 for context that is not learned."""
PART_MARKS = ("train_detail", "training_detail", "spans_to_train")
"""Keys that mark parts of a turn."""
ARGUMENT_KEYS = ("arguments", "parameters", "input", "args")
YES_OR_NO = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False, "0.0": False}
TEXT_PARTS = ("text", "input_text", "output_text", None)
THINKING_PARTS = ("thinking", "reasoning")
PYTHON_REPR = re.compile(r"\s*[\[{]\s*[\[{(]?\s*'")


def conversation(messages: Iterable[Message | tuple[Any, Any]]) -> tuple[Message, ...]:
    """Validated messages, also from (role, content) pairs; blank system messages are left out.

    Raises:
        UnusableRow: an unknown role, a content that is not text, a blank response, or no response to learn.
    """
    found = [item if isinstance(item, Message) else message(*item) for item in messages]
    responses = [turn for turn in found if turn.role == "assistant"]
    if not responses:
        raise UnusableRow("no_assistant_turn", "no assistant turn to train on")
    for turn in responses:
        if not (turn.content.strip() or turn.fields.get("tool_calls")):
            raise UnusableRow("empty_response", "an assistant turn is blank")
    if not any(turn.train for turn in responses):
        raise UnusableRow("marked_not_to_train", "all assistant turns are marked as not to be trained on")
    return tuple([turn for turn in found if turn.role != "system" or turn.content.strip()])


def message(role: Any, content: Any) -> Message:
    """A message without further fields. Raises UnusableRow."""
    return Message(_role(role), text(content))


def turns(value: Any, role: str) -> list[Message]:
    """The messages of a list of turns, also as JSON text; any other value is a single content with this role.

    Raises:
        UnusableRow: a turn cannot be used.
    """
    found = as_list(value)
    if found is None or _are_parts(found):
        return [message(role, value)]
    return [_to_message(item) for item in found]


def list_of_turns(value: Any, column: str) -> list[Message]:
    """The messages of a column that must be a list of turns. Raises UnusableRow."""
    if as_list(value) is None:
        raise UnusableRow("not_a_message", f"{column} is not a list of turns")
    return turns(value, "user")


def as_list(value: Any) -> list[Any] | None:
    """The items of a list of turns: a list, JSON text of one, or an object of lists (columns); None for anything else.

    Raises:
        UnusableRow: the text is Python's repr of a list, which is never evaluated.
    """
    if isinstance(value, list):
        return value
    if isinstance(value, str):
        return _parse_turns(value)
    if isinstance(value, Mapping):
        return _from_columns(value)
    if isinstance(value, tuple):
        return list(value)
    return list(value.tolist()) if hasattr(value, "tolist") else None


def text(value: Any) -> str:
    """A content as text: a string, or a list of text parts, which are joined. Raises UnusableRow."""
    if isinstance(value, list) and _are_parts(value):
        value = "".join(str(part["text"]) for part in value)
    if not isinstance(value, str):
        raise UnusableRow("not_text", f"a content is {type(value).__name__}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnusableRow("not_text", "a content contains a lone surrogate") from None
    return value


def read_mark(key: str, value: Any) -> bool:
    """A mark as true or false. Raises UnusableRow if it is neither."""
    found = YES_OR_NO.get(str(value).strip().lower())
    if found is None:
        raise UnusableRow("unclear_mark", f"{key!r} is {str(value)[:40]!r}; only true, false, 1 and 0 can be used")
    return found


def tool_call(call: Any) -> dict[str, Any]:
    """A tool call in the form that chat templates read: the arguments as an object. Raises UnusableRow."""
    if isinstance(call, str):
        call = parse_json(call)
    function = call.get("function", call) if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str):
        raise UnusableRow("unclear_tool_call", "a tool call is not an object with a name and arguments")
    arguments: Any = next((function[key] for key in ARGUMENT_KEYS if key in function), {})
    parsed = parse_json(arguments) if isinstance(arguments, str) else arguments
    identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    called = {"name": name, "arguments": arguments if parsed is None else parsed}
    return {**identity, "type": "function", "function": called}


def _to_message(item: Any) -> Message:
    """The message of one turn. Raises UnusableRow."""
    if type(item) is dict and item.keys() == PLAIN_TURN and isinstance(item["content"], str):
        return message(item["role"], item["content"])  # most turns: nothing else has to be looked for
    if isinstance(item, list | tuple) and len(item) == 2 and str(item[0]).strip().lower() in ROLE_OF:
        return message(*item)
    if not isinstance(item, Mapping):
        raise UnusableRow("not_a_message", f"a turn is {type(item).__name__}, not an object with role and content")
    for key in MEDIA_KEYS:
        if item.get(key):
            raise UnusableRow("not_text", f"a turn has {key!r}; only text can be trained on")
    spelled = _first(item, ROLE_KEYS)
    role = _role(spelled)
    content, fields = _content_and_fields(item, role)
    if str(spelled).strip().lower() in CALLS:
        content, fields = "", {**fields, "tool_calls": _calls(parse_json(content) if content else None)}
    return Message(role, text(content), fields, _is_trained(item))


def _content_and_fields(item: Mapping[str, Any], role: str) -> tuple[Any, dict[str, Any]]:
    fields: dict[str, Any] = {}
    content = _first(item, CONTENT_KEYS)
    if isinstance(content, list):
        content, fields = _split_parts(content)
    thinking = _first(item, THINKING_KEYS)
    if thinking not in (None, ""):
        fields[THINKING_FIELD] = text(thinking)
    called = item.get("tool_calls") or item.get("function_call")
    if called not in (None, "", [], {}):
        fields["tool_calls"] = [*fields.get("tool_calls", []), *_calls(called)]
    if fields.keys() & {THINKING_FIELD, "tool_calls"} and role != "assistant":
        raise UnusableRow("unclear_turn", f"a turn of role {role!r} thinks or calls tools")
    if role == "tool":
        fields |= {key: item[key] for key in ("name", "tool_call_id") if isinstance(item.get(key), str)}
    if content is None and "tool_calls" in fields:
        content = ""
    return content, fields


def _split_parts(parts: list[Any]) -> tuple[Any, dict[str, Any]]:
    """A content in parts as text, with the parts that think or call tools as fields."""
    thinking: list[Any] = []
    calls: list[Any] = []
    rest: list[Any] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        (thinking if kind in THINKING_PARTS else calls if kind == "tool_use" else rest).append(part)
    fields: dict[str, Any] = {}
    if thinking:
        fields[THINKING_FIELD] = "".join(text(_first(part, (*THINKING_PARTS, "text"))) for part in thinking)
    if calls:
        fields["tool_calls"] = [tool_call(part) for part in calls]
    return text(rest) if rest or not parts else "", fields


def _calls(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, str):
        value = parse_json(value)
    calls = [tool_call(call) for call in (value if isinstance(value, list) else [value])]
    if not calls:
        raise UnusableRow("unclear_tool_call", "a turn that calls tools has no call")
    return calls


def _is_trained(item: Mapping[str, Any]) -> bool:
    """Whether the turn is learned, by its marks. Raises UnusableRow if they cannot be read."""
    for key in PART_MARKS:
        if item.get(key):
            raise UnusableRow("unclear_mark", f"{key!r} marks parts of a turn; only whole turns can be masked")
    trained = [read_mark(key, item[key]) for key in TRAIN_KEYS if item.get(key) is not None]
    masked = [read_mark(key, item[key]) for key in MASK_KEYS if item.get(key) is not None]
    return all(trained) and not any(masked)


def _role(role: Any) -> str:
    if isinstance(role, str) and role in ROLES:
        return role
    found = ROLE_OF.get(role.strip().lower()) if isinstance(role, str) else None
    if found is None:
        shown = repr(role if isinstance(role, str) else type(role).__name__)[:30]
        raise UnusableRow("unknown_role", f"no role {shown}; known: {', '.join(ROLES)}, and their usual spellings")
    return found


def _first(item: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """The value of the first key that has one."""
    for key in keys:
        value = item.get(key)
        if value is not None:
            return value
    return None


def _parse_turns(value: str) -> list[Any] | None:
    """The turns in a text that is a JSON list of objects."""
    if PYTHON_REPR.match(value) and ("'role'" in value or "'from'" in value or "'content'" in value):
        raise UnusableRow("python_repr", "a conversation is Python's repr, not JSON; write it with json.dumps")
    found = parse_json(value) if value.lstrip()[:1] == "[" else None
    are_turns = isinstance(found, list) and found and all(_is_turn(item) for item in found)
    return found if are_turns else None


def _is_turn(item: Any) -> bool:
    return isinstance(item, Mapping) and _first(item, ROLE_KEYS) is not None


def _from_columns(value: Mapping[str, Any]) -> list[Any] | None:
    """The turns of ``{"role": [...], "content": [...]}``."""
    lists = [column for column in value.values() if isinstance(column, list)]
    if _first(value, ROLE_KEYS) not in lists or len({len(column) for column in lists}) != 1:
        return None
    return [{key: column[i] for key, column in value.items() if isinstance(column, list)} for i in range(len(lists[0]))]


def parse_json(value: Any) -> Any:
    """The value of a JSON text; None if it is not JSON."""
    try:
        return json.loads(value)
    except (TypeError, ValueError, RecursionError):
        return None


def _are_parts(value: list[Any]) -> bool:
    """Whether this is a content in parts, all of them text; an empty list is not."""
    return bool(value) and all(map(_is_text_part, value))


def _is_text_part(part: Any) -> bool:
    if not isinstance(part, dict) or not isinstance(part.get("text"), str):
        return False
    return part.get("type") in TEXT_PARTS and _first(part, ROLE_KEYS) is None
