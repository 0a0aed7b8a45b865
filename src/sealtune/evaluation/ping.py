"""One harmless question to every judge and served model, to find one that cannot answer before the work."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from sealtune.core.config import EvaluateConfig, JudgeConfig
from sealtune.core.errors import RunError, UserError
from sealtune.core.types import Prompt, Response
from sealtune.evaluation.ask import ask
from sealtune.evaluation.judge_protocol import Ask, Failure, Judge, Outcome, Question
from sealtune.evaluation.judges import load_judge
from sealtune.evaluation.servers import require_model, server_for

logger = logging.getLogger(__name__)

RETRIES = 1
"""Enough for a short disturbance, whatever ``max_retries`` is; a dead server is found in seconds."""

QUESTION, ANSWER = "What is the capital of Peru?", "The capital of Peru is Lima."

_warned: set[str] = set()


class Pinged(NamedTuple):
    """Whether a judge or served model answers.

    Attributes:
        name: The judge's name, or ``base`` or ``tuned``.
        ok: Whether it answers; its reply need not be a verdict.
        message: One line.
    """

    name: str
    ok: bool
    message: str


def ping(config: EvaluateConfig) -> list[Pinged]:
    """Ask all of them, and report each. A local judge model is not loaded: only its tokenizer is."""
    return [_report(name, ask_once) for name, ask_once in _all(config)]


def require_answers(config: EvaluateConfig) -> None:
    """Ask all of them. A reply without a verdict is warned about once.

    Raises:
        UserError: one cannot be asked: its key is not set, or its model does not exist.
        RunError: a server does not answer, or refuses.
    """
    errors: list[UserError | RunError] = []
    for name, ask_once in _all(config):
        try:
            problem = ask_once()
        except (UserError, RunError) as error:
            errors.append(error)
            continue
        if problem and name not in _warned:
            _warned.add(name)
            logger.warning("%s", problem)
    for other in errors[1:]:
        logger.warning("%s", other)
    if errors:
        raise errors[0]


def _all(config: EvaluateConfig) -> list[tuple[str, Callable[[], str]]]:
    """Names, and functions that ask once: they return what is wrong with the reply, or nothing, or raise."""
    judges = [(spec.name, partial(_ask_judge, spec)) for spec in config.judges]
    return [*judges, *((name, partial(_ask_served, name, config)) for name in config.endpoints)]


def _report(name: str, ask_once: Callable[[], str]) -> Pinged:
    try:
        problem = ask_once()
    except (UserError, RunError) as error:
        return Pinged(name, False, str(error))
    return Pinged(name, True, problem or f"{name}: ready")


def _ask_judge(spec: JudgeConfig) -> str:
    require_model(spec)
    judge = load_judge(spec.name)
    if not judge.asks_model:
        return ""
    verdicts = judge.judge(_harmless_answers(judge), spec, _once(spec) if spec.base_url else _prepare(spec))
    problem = next((verdict.error for verdict in verdicts if verdict.error is not None), None)
    if problem is None or spec.base_url is None:
        return ""
    return f"judge {spec.name} answers, but gives no verdict on a harmless answer: {problem}"


def _ask_served(name: str, config: EvaluateConfig) -> str:
    from sealtune.evaluation.served import questions_of, server_of

    spec = server_of(name, config).config
    _once(spec)(questions_of(name, [Prompt("ping", QUESTION, "ping", "harmless")]))
    return ""


def _once(spec: JudgeConfig) -> Ask:
    """Ask a server, with few retries and without a cache."""
    server = server_for(spec.model_copy(update={"max_retries": RETRIES}))
    return lambda questions: ask(questions, server, {}, lambda *_: None)


def _prepare(spec: JudgeConfig) -> Ask:
    """Check that a model on this machine can be asked, without loading it."""
    from sealtune.evaluation.local import LocalModel

    model = LocalModel(spec)

    def prepare(questions: Sequence[Question]) -> Sequence[Outcome]:
        model.prepare(questions)
        return [Failure("the model is not loaded yet")] * len(questions)

    return prepare


def _harmless_answers(judge: Judge) -> list[Response]:
    """An answer that the judge can judge; two, if it compares."""
    models = ("base", "tuned") if judge.pairwise else ("tuned",)
    return [Response("ping", model, "ping", judge.kinds[0], QUESTION, ANSWER, 8, True) for model in models]
