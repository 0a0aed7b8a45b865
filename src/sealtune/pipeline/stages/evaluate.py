"""The base and the tuned model are asked the same prompts, and the answers are judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sealtune.core.console import say, track
from sealtune.core.types import Response
from sealtune.pipeline.inputs import data_fingerprint, path_fingerprint
from sealtune.pipeline.stages.outcome import Outcome, drop_records

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sealtune.core.config import EvaluateConfig
    from sealtune.evaluation.answer_cache import AnswerCache
    from sealtune.pipeline.run import Run

Row = dict[str, Any]


def inputs(run: Run) -> dict[str, Any]:
    """The tuned model, the prompts, the rows whose loss is measured, and the judges."""
    from sealtune.evaluation.judging import identities

    prompts = [{**c.model_dump(), "sha256": c.path and path_fingerprint(c.path)} for c in run.config.evaluate.prompts]
    held_out = [data_fingerprint(c) for c in run.config.evaluate.held_out_datasets]
    files = run.material.fingerprints | {"prompts": prompts, "held_out": held_out}
    files |= {"tasks": [path_fingerprint(task) for task in run.config.evaluate.tasks]}
    settings = run.settings("seed", "max_length", "overlong_rows", "evaluate") | run.model_settings()
    settings["evaluate"]["judges"] = identities(run.config.evaluate)
    return settings | files | {"tuned": run.folder.outputs_of("tune")}


def work(run: Run, inputs: Mapping[str, Any]) -> Outcome:
    """Ask the base and the tuned model the same prompts, judge the answers, and measure losses."""
    from sealtune.evaluation import judging
    from sealtune.evaluation.answer_cache import AnswerCache
    from sealtune.evaluation.metrics import summarise
    from sealtune.evaluation.prompts import notices

    settings = run.config.evaluate
    _check(settings)
    unasked = run.material.prompts.drops
    for line in notices(unasked):
        say(line)
    ledger = AnswerCache(run.folder.path("evaluate/judge_cache.jsonl"))
    responses, measured = _ask(run, ledger)
    verdicts = judging.judge_all(responses, settings, ledger, track)
    for line in judging.faults(verdicts):
        say(line)
    table = summarise(judging.by_rule(verdicts)) + judging.tabulate(verdicts) + measured
    run.folder.write_jsonl("evaluate/responses.jsonl", map(dataclasses.asdict, responses))
    run.folder.write_jsonl("evaluate/verdicts.jsonl", map(dataclasses.asdict, verdicts))
    run.folder.write_jsonl("evaluate/drops.jsonl", drop_records(prompts=unasked))
    run.folder.write_json("evaluate/results.json", table)
    files = ("responses.jsonl", "verdicts.jsonl", "drops.jsonl", "results.json")
    return Outcome([f"evaluate/{name}" for name in files], {"tokens": sum(r.tokens for r in responses)})


def _check(settings: EvaluateConfig) -> None:
    """Raise UserError before a model is loaded where a judge, a task or a server cannot be asked."""
    from sealtune.evaluation import harness, judging, served

    judging.check(settings)
    harness.check(settings)
    for name in settings.endpoints:
        served.server_of(name, settings)


def _ask(run: Run, ledger: AnswerCache) -> tuple[list[Response], list[Row]]:
    """All answers, those of the base first, and what was measured of the models whose weights are here.

    No model is left in memory: a judge may need it.
    """
    from sealtune.evaluation import served
    from sealtune.tuning.saved_model import is_adapter, load_tuned

    settings, folder = run.config.evaluate, run.folder.path("tune")
    names = ("base", "tuned") if settings.base else ("tuned",)
    answers: dict[str, list[Response]] = {}
    table: list[Row] = []
    for name in names:
        if name in settings.endpoints:
            with track(f"{name}: answers of {settings.endpoints[name].base_url}") as advance:
                tokenizer = run.material.tokenizer
                answers[name] = served.answer(name, run.material.prompts.asked, tokenizer, settings, ledger, advance)
    here = [name for name in names if name not in settings.endpoints]
    model = run.load_model() if "base" in here or ("tuned" in here and is_adapter(folder)) else None
    for name in here:
        if name == "tuned":
            model = load_tuned(model, folder, run.config)
        assert model is not None
        answers[name], measured = _examine(run, name, model)
        table += measured
    return [response for name in names for response in answers[name]], table


def _examine(run: Run, name: str, model: PreTrainedModel) -> tuple[list[Response], list[Row]]:
    """One model's answers, and its losses and tasks as rows of the table."""
    from sealtune.evaluation import harness
    from sealtune.evaluation.measure import answer, losses

    settings, tokenizer = run.config.evaluate, run.material.tokenizer
    with track(f"{name}: answers") as advance:
        responses = answer(model, name, run.material.prompts.asked, tokenizer, settings, advance)
    sets = {"safe": run.material.safe[0]}
    if settings.held_out_datasets:
        sets["held_out"] = run.material.held_out[0]
    table: list[Row] = []
    for set_name, encoded in sets.items():
        with track(f"{name}: loss on {set_name}") as advance:
            table.append(losses(model, name, set_name, encoded, settings.batch_size, advance))
    if settings.tasks:
        say(f"{name}: tasks {', '.join(settings.tasks)}")
        table += harness.measure(model, name, tokenizer, settings)
    return responses, table
