"""The openings with which a model's own answers refuse and comply."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sealtune.evaluation.refusals import is_refusal
from sealtune.models.openings import COMPLIANCES, REFUSALS

MIN_WORDS, MAX_WORDS = 2, 6
"""Words of an opening. One word, such as "I", opens answers of both kinds."""
PURITY = 0.9
"""Minimum share of the answers with an opening that are of its kind."""
MIN_SHARE = 0.01
"""Minimum share of the answers that open so; at least two do."""
MAX_ADDED = 8
"""Openings of each kind that are added to the stated ones."""


class Texts(NamedTuple):
    """Openings that refuse and openings that comply."""

    refusals: tuple[str, ...]
    compliances: tuple[str, ...]


def openings_of(answers: Iterable[str]) -> Texts:
    """The stated openings, and the commonest ones of these answers."""
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
    refusals = [text for text in common if refusing[text] >= PURITY * every[text]]
    compliances = [text for text in common if every[text] - refusing[text] >= PURITY * every[text]]
    return Texts(
        _extend(REFUSALS, refusals, against=[*COMPLIANCES, *compliances]),
        _extend(COMPLIANCES, compliances, against=[*REFUSALS, *refusals]),
    )


def _beginnings(answer: str) -> list[str]:
    """The first words of an answer, for every number of words."""
    words = answer.split(maxsplit=MAX_WORDS)[:MAX_WORDS]
    found = []
    for count in range(MIN_WORDS, len(words) + 1):
        text = " ".join(words[:count])
        if answer.lstrip().startswith(text):  # words on other lines, or far apart, are other tokens
            found.append(text)
    return found


def _extend(stated: Sequence[str], found: Sequence[str], against: Sequence[str]) -> tuple[str, ...]:
    """The stated openings and up to MAX_ADDED of those found, the shortest form of each."""
    added: list[str] = []
    for text in sorted(found, key=len):
        covered = any(_begins(text, other) for other in (*stated, *added))
        if not covered and not any(_begins(other, text) for other in against):
            added.append(text)
    kept = sorted(added, key=found.index)[:MAX_ADDED]
    return (*stated, *kept)


def _begins(text: str, opening: str) -> bool:
    """Whether a text begins with these words; "Topics" does not begin with "To"."""
    return text.startswith(opening) and not text[len(opening) : len(opening) + 1].isalnum()
