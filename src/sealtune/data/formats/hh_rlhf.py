r"""Preferences, as in HH-RLHF: ``chosen``, with or without ``prompt``; texts, lists of turns, or transcripts.

A transcript is a text such as ``\n\nHuman: ...\n\nAssistant: ...``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sealtune.core.types import Message
from sealtune.data.formats import UnusableRow, conversation, text, turns
from sealtune.data.turns import as_list

COLUMNS = frozenset({"chosen"})
OPTIONAL = frozenset({"prompt", "rejected"})

SPEAKERS = {"Human": "user", "Assistant": "assistant"}
SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


def read(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The prompt and the chosen response. Raises UnusableRow."""
    prompt = row.get("prompt")
    opening = [] if prompt in (None, "", []) else turns(prompt, "user")
    chosen = _chosen(row["chosen"], has_prompt=bool(opening))
    if not any(turn.role == "user" for turn in chosen):
        return conversation([*opening, *chosen])
    if opening and not {_key(turn) for turn in opening} <= {_key(turn) for turn in chosen}:
        raise UnusableRow("two_prompts", "the prompt is not among the turns of 'chosen', which have another one")
    return conversation(chosen)


def _chosen(chosen: Any, *, has_prompt: bool) -> list[Message]:
    if as_list(chosen) is not None:
        return turns(chosen, "assistant")
    preamble, *pieces = SPEAKER.split(text(chosen))
    if preamble.strip() or not pieces:
        if has_prompt:
            return turns(chosen, "assistant")
        raise UnusableRow(
            "not_a_transcript", "there is no prompt, and chosen does not begin with 'Human:' or 'Assistant:'"
        )
    speakers, contents = pieces[::2], pieces[1::2]
    return list(
        conversation((SPEAKERS[name], content.strip()) for name, content in zip(speakers, contents, strict=True))
    )


def _key(turn: Message) -> tuple[str, str]:
    return turn.role, turn.content.strip()
