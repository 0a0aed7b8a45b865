"""From the body of a server's answer to a reply: content as text or in parts, refusals, and reasoning beside it."""

from __future__ import annotations

import json
from typing import Any

from sealtune.evaluation.judge_protocol import Reply

REASONING = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
"""Fields that hold a model's reasoning, which is never the verdict."""

_FINISH = {
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "safety": "content_filter",
    "refusal": "content_filter",
    "end_turn": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
}
"""Other vendors' words for ``stop``, ``length`` and ``content_filter``."""


def parse_completion(text: str) -> Reply:
    """The first choice of a chat completion. Raises ValueError with the text if it is something else."""
    try:
        choice = json.loads(text)["choices"][0]
        message = choice["message"]
        content, refused = _join(message.get("content"))
        refusal = message.get("refusal") or refused
        reasoned = any(message.get(field) for field in REASONING)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ValueError(text) from None
    if not isinstance(refusal, str):
        raise ValueError(text)
    finish = str(choice.get("finish_reason") or "stop").casefold()
    finish = _FINISH.get(finish, finish)
    if reasoned and finish == "stop" and not (content.strip() or refusal):
        finish = "reasoning"
    return Reply(content, finish, refusal)


def _join(content: Any) -> tuple[str, str]:
    """Text and refusal of a message's content: a string, nothing, or a list of parts. Raises TypeError."""
    if content is None:
        return "", ""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        raise TypeError("content")
    texts = {"text": "", "refusal": ""}
    for part in content:
        kind, value = ("text", part) if isinstance(part, str) else _read_part(part)
        if kind in texts:
            texts[kind] += value
    return texts["text"], texts["refusal"]


def _read_part(part: dict[str, Any]) -> tuple[str, str]:
    """Kind and text of a part; parts of other kinds (``thinking``) have no text. Raises TypeError or AttributeError."""
    kind = part.get("type", "text")
    kind = "text" if kind == "output_text" else kind
    value = part.get(kind) if kind in ("text", "refusal") else ""
    value = value if value is not None else part.get("text")
    if not isinstance(value, str):
        raise TypeError("part")
    return str(kind), value
