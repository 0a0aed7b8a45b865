"""The openings with which a model's own answers refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from sealtune.evaluation.refusals import is_refusal
from sealtune.models.openings import REFUSALS

MIN_WORDS, MAX_WORDS = 2, 6
"""Words of an opening. One word, such as "I", opens answers of both kinds."""
PURITY = 0.9
"""Minimum share of the answers with an opening that refuse."""
MIN_SHARE = 0.01
"""Minimum share of the answers that open so; at least two do."""
MAX_ADDED = 16
"""Openings that are added to the stated ones."""


def openings_of(answers: Iterable[str]) -> tuple[str, ...]:
    """The stated openings of refusals, and the commonest ones of these answers."""
    refusing: Counter[str] = Counter()
    every: Counter[str] = Counter()
    count = 0
    for answer in answers:
        count += 1
        beginnings = _beginnings(answer)
        every.update(beginnings)
        if is_refusal(answer):
            refusing.update(beginnings)
    common = [text for text, n in every.most_common() if n >= max(2, MIN_SHARE * count)]
    return _extend(REFUSALS, [text for text in common if refusing[text] >= PURITY * every[text]])


def _beginnings(answer: str) -> list[str]:
    """The first words of an answer, for every number of words."""
    words = answer.split(maxsplit=MAX_WORDS)[:MAX_WORDS]
    found = []
    for count in range(MIN_WORDS, len(words) + 1):
        text = " ".join(words[:count])
        if answer.lstrip().startswith(text):  # words on other lines, or far apart, are other tokens
            found.append(text)
    return found


def _extend(stated: Sequence[str], found: Sequence[str]) -> tuple[str, ...]:
    """The stated openings and up to MAX_ADDED of those found, the shortest form of each."""
    added: list[str] = []
    for text in sorted(found, key=len):
        if not any(_begins(text, other) for other in (*stated, *added)):
            added.append(text)
    kept = sorted(added, key=found.index)[:MAX_ADDED]
    return (*stated, *kept)


def _begins(text: str, opening: str) -> bool:
    """Whether a text begins with these words; "Topics" does not begin with "To"."""
    return text.startswith(opening) and not text[len(opening) : len(opening) + 1].isalnum()
