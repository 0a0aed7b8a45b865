"""Hostile text inside a prompt: between marks that it cannot hold, without the tokens of chat templates.

What is judged was written by somebody who may want the judge to say "safe". The text stands between two lines with a
mark made from a hash of the text itself, so no text can hold its own mark; the instructions are said again after it;
a special token of a chat template in it ("<|im_end|>", "[/INST]") gets a blank that makes it plain text, so it cannot
end the user's turn; and a verdict must name the mark, so one that a judge merely copies from the text is none. None of
this makes a weak judge strong: it may still believe what it reads.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

MARK = "{mark}"
"""Stands for the mark in a prompt file."""

# An opening bracket whose tag has no blank in it: <|eot_id|>, </s>, <start_of_turn>, [INST], <<SYS>>, <｜User｜>.
_TAG = re.compile(r"<(?=[^\s<>]{1,80}>)|\[(?=/?[A-Za-z_]{2,40}\])")


class Fenced(NamedTuple):
    """A message for a judge, and the mark that stands around the texts in it."""

    text: str
    mark: str


def fenced(before: str, texts: Mapping[str, str], after: str) -> Fenced:
    """One message: the instructions, each text under its title between marks, and the instructions that follow."""
    safe = {title: defuse(text) for title, text in texts.items()}
    mark = mark_for(safe.values())
    blocks = [f"({mark} {title} begins)\n{text}\n({mark} {title} ends)" for title, text in safe.items()]
    return Fenced("\n\n".join([before.replace(MARK, mark), *blocks, after.replace(MARK, mark)]), mark)


def defuse(text: str) -> str:
    """The text with a blank in everything that a tokenizer could take for a special token; always valid UTF-8."""
    return _TAG.sub(lambda bracket: f"{bracket[0]} ", text.encode("utf-8", "replace").decode("utf-8"))


def mark_for(texts: Iterable[str]) -> str:
    """A word that none of the texts holds, the same for the same texts (so that answers can be kept)."""
    joined = "\0".join(texts)
    mark = _digest(joined)
    while mark in joined:  # no one can write such a text, but then nothing rests on that
        mark = _digest(mark + joined)
    return mark


def _digest(text: str) -> str:
    return "mark-" + hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
