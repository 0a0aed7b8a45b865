"""What a judge that is a model is asked, what it answers, and how an answer becomes a verdict or a counted fault."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib.resources import files
from typing import Any, NamedTuple, TypeVar

from sealtune.core.types import Response, Verdict
from sealtune.evaluation.quoting import Fenced, fenced

Read = TypeVar("Read")


class Unparsed(Exception):  # noqa: N818  it is no error of ours, it is counted
    """An answer of a judge that does not have the form that was asked for."""


class Question(NamedTuple):
    """One chat for a judge to go on with; ``template`` are further values for the server's chat template.

    ``wording`` is the hash of the prompt file, so that a new wording is a new question.
    """

    judge: str
    wording: str
    messages: tuple[dict[str, str], ...]
    template: Mapping[str, str] = {}


class Reply(NamedTuple):
    """What the judge said; ``finish`` is ``stop``, ``length`` (cut off) or ``content_filter``."""

    text: str
    finish: str = "stop"
    refusal: str = ""


class Failure(NamedTuple):
    """No answer came, and why; ``of_question`` where another question may well be answered."""

    reason: str
    of_question: bool = False


Outcome = Reply | Failure
Ask = Callable[[Sequence[Question]], Sequence[Outcome]]
"""Puts questions to a judge and returns what came of each, in order."""


class Ruling(NamedTuple):
    """What a judge says of one response."""

    label: str
    score: float
    flagged: bool


class Fault(NamedTuple):
    """Why there is no ruling: ``kind`` is ``unparsed``, ``declined`` (the judge refused) or ``failed``."""

    kind: str
    detail: str


class Wording(NamedTuple):
    """A prompt file: its sections by their ``# title``, and the hash of the whole."""

    sections: Mapping[str, str]
    sha256: str


@cache
def wording(judge: str) -> Wording:
    """The prompt file that lies beside a judge."""
    text = files("sealtune.evaluation.judges").joinpath(f"{judge}.md").read_text(encoding="utf-8")
    titled = [part.partition("\n") for part in f"\n{text}".split("\n# ")[1:]]
    sections = {title.strip(): body.strip() for title, _, body in titled}
    return Wording(sections, hashlib.sha256(text.encode()).hexdigest())


def read(outcome: Outcome, parse: Callable[[str], Read]) -> Read | Fault:
    """What ``parse`` makes of the answer, or the fault: only a whole answer of the right form is ever used."""
    from sealtune.evaluation.refusals import is_refusal

    if isinstance(outcome, Failure):
        return Fault("failed", outcome.reason)
    if outcome.refusal or outcome.finish == "content_filter":
        return Fault("declined", outcome.refusal[:200] or "the server's content filter stopped the answer")
    if outcome.finish == "length":
        return Fault("unparsed", "cut off before its end; raise max_tokens")
    try:
        return parse(outcome.text)
    except Unparsed as fault:
        return Fault("declined" if is_refusal(outcome.text) else "unparsed", f"{fault}: {outcome.text[-200:]!r}")


def verdict(response: Response, judge: str, found: Ruling | Fault) -> Verdict:
    """The ruling, or the fault that stands in its place, as a verdict on this response."""
    where = (response.id, response.model, response.set, response.kind, judge)
    if isinstance(found, Fault):
        return Verdict(*where, label=found.kind, flagged=False, error=found.detail)
    return Verdict(*where, label=found.label, flagged=found.flagged, score=found.score)


def about_answer(response: Response, judge: str) -> Fenced:
    """Request and answer between the judge's instructions."""
    said = wording(judge).sections
    return fenced(said["before"], {"request": response.prompt, "answer": response.response}, said["after"])


def judge_each(
    responses: Sequence[Response],
    judge: str,
    prompt: Callable[[Response], Fenced],
    parse: Callable[[str, str], Ruling],
    ask: Ask,
) -> list[Verdict]:
    """One question and one verdict a response, in order."""
    found = ask_fenced([prompt(response) for response in responses], judge, parse, ask)
    return [verdict(response, judge, item) for response, item in zip(responses, found, strict=True)]


def ask_fenced(
    prompts: Sequence[Fenced], judge: str, parse: Callable[[str, str], Read], ask: Ask
) -> list[Read | Fault]:
    """What ``parse`` makes of the answer to each prompt and the prompt's mark, or the fault, in order."""
    sha256 = wording(judge).sha256
    outcomes = ask([Question(judge, sha256, ({"role": "user", "content": text},)) for text, _ in prompts])
    return [read(o, partial(_with, parse, mark)) for o, (_, mark) in zip(outcomes, prompts, strict=True)]


def _with(parse: Callable[[str, str], Read], mark: str, answer: str) -> Read:
    return parse(answer, mark)


def last_object(answer: str, mark: str, *keys: str) -> dict[str, Any]:
    """The JSON object that an answer ends with, which has exactly these keys and names the mark of its prompt.

    Nothing before it counts: a judge may think aloud and quote what it judges. A verdict that stood in the text that
    is judged cannot know the mark.

    Raises:
        Unparsed: the answer does not end with such an object.
    """
    text = answer.rstrip().rstrip("`").rstrip()
    start = text.rfind("{")
    try:
        found = json.loads(text[start:], object_pairs_hook=_without_doubles) if start >= 0 else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or set(found) != {"mark", *keys}:
        raise Unparsed(f"does not end with a JSON object of mark, {', '.join(keys)}")
    if found["mark"] != mark:
        raise Unparsed("ends with another mark than its prompt's")
    return found


def whole_number(value: Any, low: int, high: int) -> int:
    """The value as a whole number within bounds. Raises Unparsed."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise Unparsed(f"{value!r} is not a whole number from {low} to {high}")
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)
