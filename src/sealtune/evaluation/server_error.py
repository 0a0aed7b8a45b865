"""What a server's error says: which parameters it refuses, and its message in plain text.

Every vendor wraps its message in another way: OpenAI ``{"error": {"message", "param", "code"}}``, FastAPI
``{"detail": [{"loc", "msg"}]}``, others a list, ``{"message": ...}`` or plain text. What was asked is often repeated in
the error (``input``), so only the fields that hold messages are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

_MESSAGES = ("error", "errors", "message", "detail", "details", "msg", "title", "metadata", "raw", "reason")
_PARAMETERS = ("param", "parameter", "loc", "field")
_MAX_DEPTH = 8

# A parameter that the server knows, with a value that it does not like: another name for it would not help.
_ABOUT_VALUE = re.compile(
    r"too (?:large|long|high|big|small|low)|context (?:length|window|size)|at (?:most|least)|exceed|out of range"
    r"|(?:less|greater|larger|more)[ _]than|maximum (?:value|of|is|allowed)|[<>]=? ?\d"
    r"|must be (?:between|in |a |an |positive)",
    re.IGNORECASE,
)
_UNSUPPORTED = re.compile(r"unsupported|extra_forbidden|unknown_parameter", re.IGNORECASE)


class ServerError(NamedTuple):
    """An error as the server wrote it.

    Attributes:
        message: Its text, without the JSON around it; empty if there is none.
        parameters: The parameters that it names in a field of their own, e.g. ``("max_tokens",)``.
        codes: Its codes and types, e.g. ``unsupported_parameter``.
    """

    message: str
    parameters: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()

    def named(self, sent: Iterable[str]) -> set[str]:
        """Which of the parameters sent the error is about: those in a field of their own, else those in the message."""
        sent = set(sent)
        return sent & set(self.parameters) or {name for name in sent if _mentions(self.message, name)}

    def is_about_value(self) -> bool:
        """Whether a value is refused (a number too large), and not the parameter itself."""
        if any(_UNSUPPORTED.search(code) for code in self.codes):
            return False
        return _ABOUT_VALUE.search(self.message) is not None


def read_error(text: str) -> ServerError:
    """The error in the body of an answer, which may be anything."""
    content = _parse(text)
    if not isinstance(content, dict | list):
        return ServerError(text)
    found = list(_walk(content))
    return ServerError(
        "; ".join(dict.fromkeys(value for kind, value in found if kind == "message" and value.strip())),
        tuple(value for kind, value in found if kind == "parameter"),
        tuple(value for kind, value in found if kind == "code"),
    )


def error_status(text: str) -> int | None:
    """The status of an error that was sent with HTTP 200, 502 if it names none; None if the answer is no error."""
    if '"error"' not in text:
        return None
    content = _parse(text)
    if not isinstance(content, dict):
        return None
    choices = content.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else content
    error = first.get("error") if isinstance(first, dict) else None
    if not error:
        return None
    codes = [str(error.get(key)) for key in ("code", "status", "status_code")] if isinstance(error, dict) else []
    return next((int(code) for code in codes if re.fullmatch("[45][0-9][0-9]", code)), 502)


def _mentions(message: str, parameter: str) -> bool:
    """Whether a message contains the name, also written as ``max tokens`` or ``maxTokens``."""
    words = parameter.replace("_", "[_ -]?")
    return re.search(rf"(?<![\w-]){words}(?![\w-])", message, re.IGNORECASE) is not None


def _walk(content: Any, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Pairs of ``message``, ``parameter`` or ``code``, and a text."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(content, str):
        nested = _parse(content) if content[:1] in "{[" else None  # some gateways quote the vendor's error
        if isinstance(nested, dict | list):
            yield from _walk(nested, depth + 1)
        else:
            yield "message", content
    elif isinstance(content, list):
        for item in content:
            yield from _walk(item, depth + 1)
    elif isinstance(content, Mapping):
        yield from _walk_mapping(content, depth)


def _walk_mapping(content: Mapping[str, Any], depth: int) -> Iterator[tuple[str, str]]:
    for key in _PARAMETERS:
        value = content.get(key)
        if isinstance(value, str | list) and value:
            yield "parameter", str(value[-1] if isinstance(value, list) else value).rpartition(".")[2]
    for key in ("code", "type"):
        if isinstance(content.get(key), str):
            yield "code", content[key]
    for key in _MESSAGES:
        if content.get(key):
            yield from _walk(content[key], depth + 1)
    if isinstance(content.get("choices"), list):  # an error inside a choice
        yield from _walk(content["choices"][:1], depth + 1)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
