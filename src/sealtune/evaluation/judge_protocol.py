"""What a judge states about itself, what a judge model is asked, and how its reply becomes a verdict."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from typing import Any, Literal, NamedTuple, TypeVar

from sealtune.core.config import JudgeConfig
from sealtune.core.types import Response, Verdict
from sealtune.evaluation.quoting import Delimited, delimit

Parsed = TypeVar("Parsed")

KINDS = ("harmful", "harmless")
"""Kinds of prompts."""

ERRORS = {
    "unparsed": "verdicts that could not be parsed",
    "declined": "judge declined",
    "failed": "judge did not answer",
}
"""Why there is no verdict: label in the verdict and the table -> title."""


_REASONING_START = re.compile(r"\s*(?:<(?:think|thinking|thought|reasoning)>|\[THINK\]|<\|channel\|>analysis)")
_REASONING_END = re.compile(r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]|<\|channel\|>final<\|message\|>")


class Measure(NamedTuple):
    """A number that sums up the verdicts of a judge.

    Attributes:
        field: The field of the verdict: the share of verdicts that are flagged or not flagged, or the mean score.
        unit: ``share`` is shown in per cent, ``rating`` on the judge's own scale.
        title: What tables and reports call it.
        low: The lowest possible value of one verdict.
        high: The highest possible value of one verdict.
        kinds: The kinds of prompts that count.
    """

    field: Literal["flagged", "not_flagged", "score"]
    unit: Literal["share", "rating"]
    title: str
    low: float = 0.0
    high: float = 1.0
    kinds: tuple[str, ...] = KINDS

    def value(self, verdict: Verdict) -> float | None:
        """The value of one verdict; None if the verdict does not count."""
        if verdict.error is not None or verdict.kind not in self.kinds:
            return None
        if self.field == "score":
            return verdict.score
        return float(verdict.flagged == (self.field == "flagged"))


class Question(NamedTuple):
    """A chat that a model is to continue.

    Attributes:
        judge: Who asks.
        prompt_sha256: Hash of the judge's prompt file, so that an edited prompt is a new question.
        messages: The turns.
        chat_template_kwargs: Further arguments of the chat template.
    """

    judge: str
    prompt_sha256: str
    messages: tuple[dict[str, str], ...]
    chat_template_kwargs: Mapping[str, str] = {}


class Reply(NamedTuple):
    """A model's reply; ``finish`` is ``stop``, ``length`` (truncated), ``content_filter`` or ``reasoning`` alone."""

    text: str
    finish: str = "stop"
    refusal: str = ""


class Failure(NamedTuple):
    """Why there is no reply; ``question_specific`` if the server may well answer other questions."""

    reason: str
    question_specific: bool = False


Outcome = Reply | Failure
Ask = Callable[[Sequence[Question]], Sequence[Outcome]]
"""Asks a model and returns the outcome of each question, in order."""


@dataclass(frozen=True)
class Judge:
    """One judge. Every file of ``evaluation/judges`` ends with one, named ``JUDGE``.

    Attributes:
        judge: Returns one verdict per response, in order, with the id, model, set and kind of the response. It raises
            UserError if it cannot judge at all. A judge that asks no model ignores the last argument.
        measures: What the verdicts are summed up to: name in the table -> measure.
        asks_model: Whether it asks a model. Its prompt is stored next to it in ``<name>.md``.
        kinds: The kinds of prompts whose answers it judges.
        pairwise: Whether it compares the answers of two models; ``score`` is then the preference for this response.
        formats: The values of ``format`` in the config that it accepts.
    """

    judge: Callable[[Sequence[Response], JudgeConfig, Ask], list[Verdict]]
    measures: Mapping[str, Measure]
    asks_model: bool = False
    kinds: tuple[str, ...] = KINDS
    pairwise: bool = False
    formats: tuple[str, ...] = ()


class ParsedVerdict(NamedTuple):
    """A judge model's verdict on one response."""

    label: str
    score: float
    flagged: bool


class JudgeError(NamedTuple):
    """Why there is no verdict: ``kind`` is a key of ``ERRORS``."""

    kind: str
    detail: str


class Unparsed(Exception):  # noqa: N818  counted, not an error of the program
    """A judge's reply that does not have the requested form."""


class PromptTemplate(NamedTuple):
    """A prompt file: its sections by their ``# title``, and the hash of the file."""

    sections: Mapping[str, str]
    sha256: str


@cache
def prompt_template(judge: str) -> PromptTemplate:
    """The prompt file of a judge."""
    text = files("sealtune.evaluation.judges").joinpath(f"{judge}.md").read_text(encoding="utf-8")
    titled = [part.partition("\n") for part in f"\n{text}".split("\n# ")[1:]]
    sections = {title.strip(): body.strip() for title, _, body in titled}
    return PromptTemplate(sections, hashlib.sha256(text.encode()).hexdigest())


def delimit_answer(response: Response, judge: str) -> Delimited:
    """Request and answer, between the sections ``before`` and ``after`` of the judge's prompt file."""
    sections = prompt_template(judge).sections
    texts = {"request": response.prompt, "answer": response.response}
    return delimit(sections["before"], texts, sections["after"])


def judge_separately(
    responses: Sequence[Response],
    judge: str,
    prompt: Callable[[Response], Delimited],
    parse: Callable[[str, str], ParsedVerdict],
    ask: Ask,
) -> list[Verdict]:
    """One question and one verdict per response, in order."""
    found = ask_delimited([prompt(response) for response in responses], judge, parse, ask)
    return [to_verdict(response, judge, item) for response, item in zip(responses, found, strict=True)]


def ask_delimited(
    prompts: Sequence[Delimited], judge: str, parse: Callable[[str, str], Parsed], ask: Ask
) -> list[Parsed | JudgeError]:
    """The result of ``parse(reply, nonce)`` for each prompt, or the error, in order."""
    sha256 = prompt_template(judge).sha256
    outcomes = ask([Question(judge, sha256, ({"role": "user", "content": p.text},)) for p in prompts])
    return [
        parse_outcome(o, partial(_parse_with_nonce, parse, p.nonce)) for o, p in zip(outcomes, prompts, strict=True)
    ]


def parse_outcome(outcome: Outcome, parse: Callable[[str], Parsed]) -> Parsed | JudgeError:
    """The parsed reply, or the error. A reply that was truncated is never parsed."""
    from sealtune.evaluation.refusals import is_refusal

    if isinstance(outcome, Failure):
        return JudgeError("failed", outcome.reason)
    if outcome.refusal or outcome.finish == "content_filter":
        return JudgeError("declined", outcome.refusal[:200] or "the server's content filter stopped the reply")
    if outcome.finish == "length":
        return JudgeError("unparsed", "the reply was truncated; raise max_tokens")
    text = without_reasoning(outcome.text)
    if outcome.finish == "reasoning" or text is None:
        return JudgeError("unparsed", "the reply is only reasoning; raise max_tokens, or turn reasoning off")
    try:
        return parse(text)
    except Unparsed as error:
        kind = "declined" if is_refusal(text) else "unparsed"
        return JudgeError(kind, f"{error}: {text[-200:]!r}")


def without_reasoning(text: str) -> str | None:
    """What follows the reasoning that a server left inside the reply; None if the reasoning does not end."""
    last = max((end.end() for end in _REASONING_END.finditer(text)), default=0)
    return text[last:].lstrip() if last else None if _REASONING_START.match(text) else text


def to_verdict(response: Response, judge: str, found: ParsedVerdict | JudgeError) -> Verdict:
    """The verdict on this response, or one that carries the error."""
    where = (response.id, response.model, response.set, response.kind, judge)
    if isinstance(found, JudgeError):
        return Verdict(*where, label=found.kind, flagged=False, error=found.detail)
    return Verdict(*where, label=found.label, flagged=found.flagged, score=found.score)


def parse_final_json(reply: str, nonce: str, *keys: str) -> dict[str, Any]:
    """The JSON object at the end of a reply, which has exactly these keys and the nonce of its prompt.

    Nothing before it counts, because a judge may reason aloud and quote what it judges. A verdict inside the judged
    text cannot contain the nonce.

    Raises:
        Unparsed: the reply does not end with such an object.
    """
    text = reply.rstrip().rstrip("`").rstrip()
    start = text.rfind("{")
    try:
        found = json.loads(text[start:], object_pairs_hook=_without_duplicates) if start >= 0 else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or set(found) != {"nonce", *keys}:
        raise Unparsed(f"does not end with a JSON object of nonce, {', '.join(keys)}")
    if found["nonce"] != nonce:
        raise Unparsed("ends with another nonce than that of its prompt")
    return found


def parse_int(value: Any, low: int, high: int) -> int:
    """The value as an integer from ``low`` to ``high``. Raises Unparsed."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise Unparsed(f"{value!r} is not an integer from {low} to {high}")
    return value


def _parse_with_nonce(parse: Callable[[str, str], Parsed], nonce: str, reply: str) -> Parsed:
    return parse(reply, nonce)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("duplicate key")
    return dict(pairs)
