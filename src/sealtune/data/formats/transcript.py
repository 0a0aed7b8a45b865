"""A whole conversation in ``text``, with a line such as ``### Human:`` or ``Assistant:`` before each turn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sealtune.core.types import Message
from sealtune.data.formats import UnusableRow, conversation, text

COLUMNS = frozenset({"text"})

SPEAKER = re.compile(r"^(?:#{2,3} *)?(Human|User|Assistant|System|Instruction|Response|Input) ?: *", re.MULTILINE)
ROLES = {"Instruction": "user", "Response": "assistant"}


def read(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The conversation of a row, contents stripped of whitespace. Raises UnusableRow."""
    preamble, *pieces = SPEAKER.split(text(row["text"]))
    if preamble.strip() or not pieces or "Input" in pieces[::2]:
        raise UnusableRow(
            "not_a_transcript",
            "'text' does not begin with a speaker such as '### Human:', so it is unclear what the response is; give "
            "the prompt and the response as two columns: `columns: {prompt: ..., response: ...}`",
        )
    turns = zip(pieces[::2], pieces[1::2], strict=True)
    return conversation((ROLES.get(name, name), content.strip()) for name, content in turns)
