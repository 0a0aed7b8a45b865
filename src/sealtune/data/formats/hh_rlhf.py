r"""HH-RLHF: ``chosen``, a transcript ``\n\nHuman: ...\n\nAssistant: ...`` or a list of messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sealtune.core.types import Message
from sealtune.data.formats import UnusableRow, conversation, text, turns

COLUMNS = frozenset({"chosen"})

SPEAKERS = {"Human": "user", "Assistant": "assistant"}
SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


def read(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The conversation of a row, contents stripped of whitespace. Raises UnusableRow."""
    chosen = row["chosen"]
    if isinstance(chosen, list):
        return conversation(turns(chosen, "assistant"))
    preamble, *pieces = SPEAKER.split(text(chosen))
    if preamble.strip() or not pieces:
        raise UnusableRow("not_a_transcript", "chosen does not begin with 'Human:' or 'Assistant:'")
    speakers, contents = pieces[::2], pieces[1::2]
    return conversation((SPEAKERS[name], content.strip()) for name, content in zip(speakers, contents, strict=True))
