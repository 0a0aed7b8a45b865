"""Untrusted text inside a judge's prompt: delimited by a nonce, without the special tokens of chat templates.

Whoever wrote the judged text may want the judge to say "safe". Four defences:

* The text is enclosed by two lines with a nonce. The nonce is a hash of the text, so no text can contain its own.
* The instructions are repeated after the text.
* Special tokens of chat templates ("<|im_end|>", "[/INST]") are broken by a space, so the text cannot end the user's
  turn.
* The verdict must repeat the nonce, so a verdict that the judge copies from the text is not accepted.

None of this makes a weak judge strong: it may still believe what it reads.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

NONCE = "{nonce}"
"""Placeholder of the nonce in a prompt file."""

# An opening bracket of a tag without spaces: <|eot_id|>, </s>, <start_of_turn>, [INST], <<SYS>>, <｜User｜>.
_TAG = re.compile(r"<(?=[^\s<>]{1,80}>)|\[(?=/?[A-Za-z_]{2,40}\])")


class Delimited(NamedTuple):
    """A message to a judge, and the nonce that encloses the texts in it."""

    text: str
    nonce: str


def delimit(before: str, texts: Mapping[str, str], after: str) -> Delimited:
    """One message: instructions, each text under its title between lines with the nonce, further instructions."""
    safe = {title: defuse(text) for title, text in texts.items()}
    nonce = nonce_for(safe.values())
    blocks = [f"({nonce} {title} begins)\n{text}\n({nonce} {title} ends)" for title, text in safe.items()]
    return Delimited("\n\n".join([before.replace(NONCE, nonce), *blocks, after.replace(NONCE, nonce)]), nonce)


def defuse(text: str) -> str:
    """The text with a space in everything that a tokenizer could take for a special token; always valid UTF-8."""
    return _TAG.sub(lambda bracket: f"{bracket[0]} ", text.encode("utf-8", "replace").decode("utf-8"))


def nonce_for(texts: Iterable[str]) -> str:
    """A word that none of the texts contains; the same for the same texts, so that replies can be cached."""
    joined = "\0".join(texts)
    nonce = _digest(joined)
    while nonce in joined:  # practically impossible, but safety must not depend on it
        nonce = _digest(nonce + joined)
    return nonce


def _digest(text: str) -> str:
    return "nonce-" + hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
