"""Asks the base and the tuned model the same prompts, and lets judges assess the answers."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sealtune.core.console import track
from sealtune.core.types import Response
from sealtune.pipeline.fingerprints import data_fingerprint, path_fingerprint
from sealtune.pipeline.stages.outcome import Outcome, drop_records

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sealtune.core.config import EvaluateConfig
    from sealtune.evaluation.answer_cache import AnswerCache
    from sealtune.pipeline.run import Run

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def depends_on(run: Run) -> dict[str, Any]:
    """The tuned model, the prompts, the rows whose loss is measured, the tasks and the judges."""
    from sealtune.evaluation.judging import identities

    config = run.config.evaluate
    settings = run.settings("seed", "max_length", "overlong_rows", "evaluate")
    settings["evaluate"]["judges"] = identities(config)
    return {
        **settings,
        **run.model_settings(),
        **run.inputs.fingerprints(),
        "prompts": [{**c.model_dump(), "sha256": c.path and path_fingerprint(c.path)} for c in config.prompts],
        "held_out": [data_fingerprint(c) for c in config.held_out_datasets],
        "tasks": [path_fingerprint(task) for task in config.tasks],
        "tuned": run.folder.outputs_of("tune"),
    }


def work(run: Run, dependencies: Mapping[str, Any]) -> Outcome:
    """Collect and judge the answers of both models, and measure their losses."""
    from sealtune.evaluation import judging
    from sealtune.evaluation.answer_cache import AnswerCache
    from sealtune.evaluation.prompts import notices

    settings, folder = run.config.evaluate, run.folder
    _check(settings)
    unusable = run.inputs.load_prompts().drops
    for line in notices(unusable):
        logger.warning("%s", line)
    cache = AnswerCache(folder.path("evaluate/judge_cache.jsonl"))
    responses, measured = _answers(run, cache)
    verdicts = judging.judge_all(responses, settings, cache, track)
    for line in judging.describe_errors(verdicts):
        logger.warning("%s", line)
    table = judging.tabulate(verdicts) + measured
    folder.write_jsonl("evaluate/responses.jsonl", map(dataclasses.asdict, responses))
    folder.write_jsonl("evaluate/verdicts.jsonl", map(dataclasses.asdict, verdicts))
    folder.write_jsonl("evaluate/drops.jsonl", drop_records(prompts=unusable))
    folder.write_json("evaluate/results.json", table)
    files = ("responses.jsonl", "verdicts.jsonl", "drops.jsonl", "results.json")
    return Outcome([f"evaluate/{name}" for name in files], {"tokens": sum(r.tokens for r in responses)})


def _check(settings: EvaluateConfig) -> None:
    """Raise UserError before a model is loaded if a judge, task or endpoint cannot be used."""
    from sealtune.evaluation import harness, judging, served

    judging.check(settings)
    harness.check(settings)
    for name in settings.endpoints:
        served.server_of(name, settings)


def _answers(run: Run, cache: AnswerCache) -> tuple[list[Response], list[Row]]:
    """All answers, the base model's first, and the table rows measured on models that run here.

    No model stays in memory: a judge may need it.
    """
    settings = run.config.evaluate
    names = ("base", "tuned") if settings.base else ("tuned",)
    answers = {name: _served_answers(run, name, cache) for name in names if name in settings.endpoints}
    local, table = _measure_local(run, [name for name in names if name not in settings.endpoints])
    answers |= local
    return [response for name in names for response in answers[name]], table


def _served_answers(run: Run, name: str, cache: AnswerCache) -> list[Response]:
    from sealtune.evaluation import served

    settings, tokenizer = run.config.evaluate, run.inputs.load_tokenizer()
    with track(f"{name}: answers of {settings.endpoints[name].base_url}") as advance:
        return served.answer(name, run.inputs.load_prompts().asked, tokenizer, settings, cache, advance)


def _measure_local(run: Run, names: list[str]) -> tuple[dict[str, list[Response]], list[Row]]:
    """Answers by model name, and table rows, of the models that run on this machine."""
    from sealtune.tuning.saved_model import is_adapter, load_tuned

    folder = run.folder.path("tune")
    answers: dict[str, list[Response]] = {}
    table: list[Row] = []
    model = run.load_model() if "base" in names or ("tuned" in names and is_adapter(folder)) else None
    for name in names:
        if name == "tuned":
            model = load_tuned(model, folder, run.config)
        assert model is not None
        answers[name], measured = _measure(run, name, model)
        table += measured
    return answers, table


def _measure(run: Run, name: str, model: PreTrainedModel) -> tuple[list[Response], list[Row]]:
    """One model's answers, and its losses and task results as table rows."""
    from sealtune.evaluation import harness
    from sealtune.evaluation.measure import answer, losses

    settings, tokenizer = run.config.evaluate, run.inputs.load_tokenizer()
    with track(f"{name}: answers") as advance:
        responses = answer(model, name, run.inputs.load_prompts().asked, tokenizer, settings, advance)
    sets = {"safe": run.inputs.load_safe().encoded}
    if settings.held_out_datasets:
        sets["held_out"] = run.inputs.load_held_out().encoded
    table: list[Row] = []
    for set_name, encoded in sets.items():
        with track(f"{name}: loss on {set_name}") as advance:
            table.append(losses(model, name, set_name, encoded, settings.batch_size, advance))
    if settings.tasks:
        logger.info("%s: tasks %s", name, ", ".join(settings.tasks))
        table += harness.measure(model, name, tokenizer, settings)
    return responses, table
