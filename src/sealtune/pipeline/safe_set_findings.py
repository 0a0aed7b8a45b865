"""What a safe set can teach, and what it lacks: two halves, sources, size, twins, overlaps, openings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from string import punctuation
from typing import Literal, NamedTuple

from sealtune.core.sanitize import excerpt
from sealtune.core.types import Sample
from sealtune.data.duplicates import MAX_TWINS_COMPARED, count_shared_prompts, have_twins, prompt_text
from sealtune.data.reasons import plural
from sealtune.pipeline.guard_set import is_harmful

MAX_EXAMINED = 20_000
"""Rows of the safe set that are examined: the first ones."""
FEW_ROWS = 100
SMALL_SHARE, TINY_SHARE = 0.1, 0.02
"""Shares of the rows below which a half is small, and as good as missing."""
NEAR_SHARE = 0.01
"""Share of the prompts that may nearly be those of candidates: tasks are often put in the same words."""
FEW_TWINS = 0.5
"""Share of the refusing rows with a twin below which twins are missing."""
OPENING_WORDS = 5
ONE_OPENING = 0.5
"""Share of the refusals with the same opening above which they are one sentence."""
OFTEN, SELDOM = 0.8, 0.2
"""Shares of a half on which the start model does what the safe answers do, or does not."""
SMALL_SOURCE = 0.05
"""Share of a half below which a source does not count."""
SOURCE_COLUMN = "source"
ABOUT_START_MODEL = ("refusing half", "helping half")
"""Names of the findings on how the start model itself answers."""
MEASURED: Mapping[str, str] = {}
"""By name of a finding: what following its advice has been measured to change."""

Severity = Literal["fine", "advice", "warning"]


@dataclass(frozen=True)
class Finding:
    """Something that a safe set has or lacks.

    Attributes:
        name: Identifies what was examined: ``halves``, ``rows``, ``sources``, ``twins``, ``candidates``, ``asked``,
            ``openings``, ``refusing half``, ``helping half``.
        severity: ``fine``; ``advice`` if the set could do better; ``warning`` if it cannot do its work, or if results
            would be wrong.
        fact: What was found, with counts.
        advice: What to do about it.
    """

    name: str
    severity: Severity
    fact: str
    advice: str


class StartAnswers(NamedTuple):
    """How many rows of each half the start model was asked, and how many it refuses."""

    refusing: int
    refusing_refused: int
    helping: int
    helping_refused: int


class Halves(NamedTuple):
    """The rows whose answers refuse, and those whose answers help."""

    refusing: list[Sample]
    helping: list[Sample]


def split(samples: Iterable[Sample], column: str | None = None) -> Halves:
    """Both halves of the first MAX_EXAMINED rows, told apart as the guard does (``guard_set.is_harmful``)."""
    halves = Halves([], [])
    for sample in islice(samples, MAX_EXAMINED):
        (halves.refusing if is_harmful(sample, column) else halves.helping).append(sample)
    return halves


def examine(
    halves: Halves,
    candidates: Iterable[Sample] = (),
    asked: Iterable[str] = (),
    start: StartAnswers | None = None,
) -> list[Finding]:
    """What a safe set has and lacks.

    Args:
        halves: Its rows.
        candidates: The rows that are ranked.
        asked: The prompts of evaluation.
        start: How the start model itself answers; None if it was not asked.
    """
    prompts = [prompt_text(sample) for half in halves for sample in half]
    found = [
        _examine_halves(halves),
        _examine_rows(len(prompts)),
        _examine_sources(halves),
        _examine_candidates(prompts, candidates),
        _examine_asked(prompts, asked),
    ]
    if halves.refusing:
        found += [_examine_openings(halves.refusing), *([_examine_twins(halves)] if halves.helping else [])]
    if start is not None:
        found += _examine_start(start)
    return found


def _finding(name: str, severity: Severity, fact: str, advice: str) -> Finding:
    measured = MEASURED.get(name)
    return Finding(name, severity, fact, f"{advice} ({measured})" if measured else advice)


def _examine_halves(halves: Halves) -> Finding:
    total = max(len(halves.refusing) + len(halves.helping), 1)
    shares = [len(half) / total for half in halves]
    named = zip(("refuse", "help"), halves, shares, strict=True)
    fact = ", ".join(f"{plural(len(half), 'row')} ({share:.0%}) {what}" for what, half, share in named)
    if shares[0] < TINY_SHARE:
        advice = "add harmful prompts with answers that refuse: hardly anything here shows the model what to refuse"
        return _finding("halves", "warning", fact, advice)
    if shares[1] < TINY_SHARE:
        advice = "add harmless prompts with helpful answers: from refusals alone a model learns to refuse everything"
        return _finding("halves", "warning", fact, advice)
    if min(shares) < SMALL_SHARE:
        side = "harmful prompts with answers that refuse" if shares[0] < shares[1] else "harmless prompts with answers"
        return _finding("halves", "advice", fact, f"add {side}: this half is small beside the other")
    return _finding("halves", "fine", fact, "keep both halves")


def _examine_rows(count: int) -> Finding:
    fact = plural(count, "row") + (" or more" if count >= MAX_EXAMINED else "")
    if count < FEW_ROWS:
        return _finding(
            "rows",
            "advice",
            fact,
            "gather more: some of so few are only watched, and the rest is soon learned by heart",
        )
    return _finding("rows", "fine", fact, "enough to learn from some and to watch others")


def _examine_sources(halves: Halves) -> Finding:
    counts = [_count_sources(half) for half in halves]
    parts = zip(("refusing", "helping"), counts, strict=True)
    fact = ", ".join(f"the {name} half from {plural(count, 'source')}" for name, count in parts if count)
    if 1 in counts:
        advice = "add rows from elsewhere: what is learned from one source may hold for its own prompts alone"
        return _finding("sources", "advice", fact, advice)
    return _finding("sources", "fine", fact, "keep them mixed")


def _count_sources(half: Sequence[Sample]) -> int:
    """Sources of at least SMALL_SOURCE of the rows; all of them if there is none."""
    counts = Counter(map(_source, half))
    return sum(count >= SMALL_SOURCE * len(half) for count in counts.values()) or len(counts)


def _source(sample: Sample) -> tuple[str, str]:
    """The dataset of a row, and what the row itself says of where it comes from."""
    own = sample.row.get(SOURCE_COLUMN)
    return sample.source, own if isinstance(own, str) else ""


def _examine_twins(halves: Halves) -> Finding:
    refusing, helping = ([prompt_text(sample) for sample in half[:MAX_TWINS_COMPARED]] for half in halves)
    found = int(have_twins(refusing, helping).sum())
    fact = f"{found:,} of {plural(len(refusing), 'refusing row')} with a harmless twin"
    if found < FEW_TWINS * len(refusing):
        advice = "add harmless prompts that look like the harmful ones, with helpful answers: they show where to stop"
        return _finding("twins", "advice", fact, advice)
    return _finding("twins", "fine", fact, "keep the twins in pairs")


def _examine_candidates(prompts: Sequence[str], candidates: Iterable[Sample]) -> Finding:
    exact, near = count_shared_prompts(prompts, map(prompt_text, candidates))
    fact = f"prompts among the candidates: {exact:,} exact, {near:,} exact or near"
    if exact or near > NEAR_SHARE * len(prompts):
        advice = "take them out of one of the two: such candidates are ranked by their prompts, not by their answers"
        return _finding("candidates", "advice", fact, advice)
    return _finding("candidates", "fine", fact, "nothing to do")


def _examine_asked(prompts: Sequence[str], asked: Iterable[str]) -> Finding:
    exact, near = count_shared_prompts(prompts, asked)
    fact = f"prompts among those of evaluation: {exact:,} exact, {near:,} exact or near"
    if near:
        advice = "ask other prompts, or take these out of the safe set: prompts that were learned from prove nothing"
        return _finding("asked", "warning", fact, advice)
    return _finding("asked", "fine", fact, "nothing to do")


def _examine_openings(refusing: Sequence[Sample]) -> Finding:
    openings = Counter(_opening(sample.response) for sample in refusing)
    words, count = openings.most_common(1)[0]
    share = count / len(refusing)
    fact = f"commonest opening of the refusals: {words!r}, {share:.0%} of them; {plural(len(openings), 'opening')}"
    if share > ONE_OPENING:
        advice = "vary the refusals, and give reasons: a single sentence is learned by heart, not understood"
        return _finding("openings", "advice", fact, advice)
    return _finding("openings", "fine", fact, "varied enough")


def _opening(text: str) -> str:
    words = text.casefold().replace("\u2019", "'").split()[:OPENING_WORDS]
    return excerpt(" ".join(word.strip(punctuation) for word in words), 60)


def _examine_start(start: StartAnswers) -> Iterator[Finding]:
    if start.refusing:
        share = start.refusing_refused / start.refusing
        fact = f"the start model itself refuses {share:.0%} of {plural(start.refusing, 'row')} of the refusing half"
        if share < SELDOM:
            advice = "the start model is hardly aligned on them: these rows have to teach, so give many and varied ones"
            yield _finding("refusing half", "advice", fact, advice)
        elif share < OFTEN:
            yield _finding("refusing half", "fine", fact, "they teach what it lacks, and keep what it has")
        else:
            yield _finding("refusing half", "fine", fact, "they keep what it does already")
    if start.helping:
        share = start.helping_refused / start.helping
        fact = f"the start model itself refuses {share:.0%} of {plural(start.helping, 'row')} of the helping half"
        if share > SELDOM:
            advice = "the start model refuses too much: give many harmless prompts that look harmful, with answers"
            yield _finding("helping half", "advice", fact, advice)
        else:
            yield _finding("helping half", "fine", fact, "they keep it as helpful as it is")
