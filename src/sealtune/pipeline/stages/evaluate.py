"""Asks the base and the tuned model the same prompts, and lets judges assess the answers."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sealtune.core.console import track
from sealtune.core.errors import UserError
from sealtune.core.types import Response
from sealtune.models.load import tokenizer_fingerprint
from sealtune.pipeline import likelihood
from sealtune.pipeline.fingerprints import data_fingerprint, path_fingerprint
from sealtune.pipeline.likelihood import Likelihood
from sealtune.pipeline.stages.outcome import Outcome, drop_records
from sealtune.pipeline.stored_answers import StoredAnswers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sealtune.core.config import EvaluateConfig
    from sealtune.data.encoded import Encoded
    from sealtune.evaluation.answer_cache import AnswerCache
    from sealtune.pipeline.run import Run

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def depends_on(run: Run) -> dict[str, Any]:
    """The tuned model, the prompts, the rows whose loss is measured, the tasks and the judges."""
    from sealtune.evaluation.judging import identities

    config = run.config.evaluate
    settings = run.settings("seed", "max_length", "overlong_rows", "template_markers", "evaluate")
    settings["evaluate"]["judges"] = identities(config)
    return {
        **settings,
        **run.model_settings(),
        **run.inputs.fingerprints(),
        "prompts": [{**c.model_dump(), "sha256": c.path and path_fingerprint(c.path)} for c in config.prompts],
        "held_out": [data_fingerprint(c) for c in config.held_out_datasets],
        "tasks": [path_fingerprint(task) for task in config.tasks],
        "likelihood": likelihood.fingerprints(run),
        "tuned": run.folder.outputs_of("tune"),
    }


def is_done(run: Run) -> bool:
    """Whether the evaluation was finished from the same inputs, so that no judge will be asked."""
    try:
        return run.folder.is_done("evaluate", depends_on(run))
    except UserError:  # not tuned yet
        return False


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
    responses, measured = _answers(run, dependencies, cache)
    verdicts = judging.judge_all(responses, settings, cache, track)
    for line in judging.describe_errors(verdicts):
        logger.warning("%s", line)
    table = judging.tabulate(verdicts) + measured
    folder.write_jsonl("evaluate/responses.jsonl", map(dataclasses.asdict, responses))
    folder.write_jsonl("evaluate/verdicts.jsonl", map(dataclasses.asdict, verdicts))
    folder.write_jsonl("evaluate/drops.jsonl", drop_records(prompts=unusable))
    folder.write_json("evaluate/results.json", table)
    files = ["responses.jsonl", "verdicts.jsonl", "drops.jsonl", "results.json"]
    facts: dict[str, Any] = {"tokens": sum(r.tokens for r in responses)}
    if changes := judging.request_changes(settings, cache.records()):
        facts["request_changes"] = changes
    outputs = [f"evaluate/{name}" for name in files]
    return Outcome([*outputs, *(likelihood.FILES if settings.likelihood else ())], facts)


def _check(settings: EvaluateConfig) -> None:
    """Raise UserError before a model is loaded if a judge, task or endpoint cannot be used."""
    from sealtune.evaluation import harness, judging, served

    judging.check(settings)
    harness.check(settings)
    for name in settings.endpoints:
        served.server_of(name, settings)


def _answers(run: Run, dependencies: Mapping[str, Any], cache: AnswerCache) -> tuple[list[Response], list[Row]]:
    """All answers, the base model's first, and the table rows measured on models that run here.

    Answers are stored before they are judged. No model stays in memory: a judge may need it.
    """
    from sealtune.evaluation import judging, served

    settings, prompts = run.config.evaluate, run.inputs.load_prompts().asked
    names = ("base", "tuned") if settings.base else ("tuned",)
    versions = {name: _version(name, dependencies) for name in settings.endpoints}
    stored = {name: _stored(run, name, dependencies) for name in names if name not in settings.endpoints}
    answers: dict[str, list[Response]] = {}
    unanswered = Likelihood(run, dependencies, lambda: _start_answers(answers, stored))
    unanswered.check()
    missing = [name for name in stored if not stored[name].complete]
    unasked = [
        name
        for name in names
        if name in versions and not served.is_answered(name, prompts, settings, cache, versions[name])
    ]
    if prompts and (missing or unasked):
        judging.require_answers(settings)
    answers |= {name: _served_answers(run, name, versions[name], cache) for name in names if name in versions}
    _measure_missing(run, missing, stored, unanswered)
    for name, store in stored.items():
        answers[name] = store.responses() or []
    table = [row for store in stored.values() for row in store.measured() or []]
    leading = unanswered.write() if settings.likelihood else []
    return [response for name in names for response in answers[name]], leading + table


def _start_answers(served: Mapping[str, list[Response]], stored: Mapping[str, StoredAnswers]) -> list[Response]:
    """The start model's answers, as far as this run has any."""
    return served.get("base") or ("base" in stored and stored["base"].responses()) or []


def _version(name: str, dependencies: Mapping[str, Any]) -> str:
    """What distinguishes the tuned model of this run from those of earlier ones behind the same address."""
    if name != "tuned":
        return ""
    return hashlib.sha256(repr(sorted(dependencies["tuned"].items())).encode()).hexdigest()


def _stored(run: Run, name: str, dependencies: Mapping[str, Any]) -> StoredAnswers:
    """The answers and measurements of a model; they do not depend on who judges them."""
    depends_on = {key: value for key, value in dependencies.items() if key != "tuned" or name == "tuned"}
    depends_on["evaluate"] = {
        k: v
        for k, v in depends_on["evaluate"].items()
        if k not in ("judges", "endpoints", "base", "likelihood", "pairs")
    }
    depends_on.pop("likelihood")
    depends_on["tokenizer"] = tokenizer_fingerprint(run.inputs.load_tokenizer())
    depends_on["rows"] = {set_name: _ids_hash(encoded) for set_name, encoded in _loss_sets(run).items()}
    return StoredAnswers(run.folder, name, run.inputs.load_prompts().asked, depends_on)


def _ids_hash(encoded: Encoded) -> str:
    """Data sets of the hub have no hash of their files; the ids of their rows do instead."""
    return hashlib.sha256("\0".join(encoded.ids).encode("utf-8", "replace")).hexdigest()


def _loss_sets(run: Run) -> dict[str, Encoded]:
    """The rows whose loss is measured, by name."""
    sets = {"safe": run.inputs.load_safe().encoded}
    return sets | {"held_out": run.inputs.load_held_out().encoded} if run.config.evaluate.held_out_datasets else sets


def _served_answers(run: Run, name: str, version: str, cache: AnswerCache) -> list[Response]:
    from sealtune.evaluation import served

    settings, tokenizer = run.config.evaluate, run.inputs.load_tokenizer()
    with track(f"{name}: answers of {settings.endpoints[name].base_url}") as advance:
        return served.answer(name, run.inputs.load_prompts().asked, tokenizer, settings, cache, advance, version)


def _measure_missing(run: Run, missing: list[str], stored: Mapping[str, StoredAnswers], unanswered: Likelihood) -> None:
    """Load the models of which something is not stored, and store it. The start model comes first."""
    from sealtune.tuning.saved_model import is_adapter, load_tuned

    folder = run.folder.path("tune")
    unmeasured = unanswered.names if "base" in missing else unanswered.missing()
    names = [name for name in ("base", "tuned") if name in missing or name in unmeasured]
    model = run.load_model() if "base" in names or ("tuned" in names and is_adapter(folder)) else None
    for name in names:
        if name == "tuned":
            model = load_tuned(model, folder, run.config)
        assert model is not None
        if name in missing:
            _measure(run, name, model, stored[name])
        if name in unmeasured:
            unanswered.measure(name, model)


def _measure(run: Run, name: str, model: PreTrainedModel, store: StoredAnswers) -> None:
    """Store one model's answers, and its losses and task results as table rows."""
    from sealtune.evaluation import harness
    from sealtune.evaluation.measure import answer, losses

    settings, tokenizer = run.config.evaluate, run.inputs.load_tokenizer()
    if store.responses() is None:
        with track(f"{name}: answers") as advance:
            store.store_responses(answer(model, name, store.prompts, tokenizer, settings, advance))
    table: list[Row] = []
    for set_name, encoded in _loss_sets(run).items():
        with track(f"{name}: loss on {set_name}") as advance:
            table.append(losses(model, name, set_name, encoded, settings.batch_size, advance))
    if settings.tasks:
        logger.info("%s: tasks %s", name, ", ".join(settings.tasks))
        table += harness.measure(model, name, tokenizer, settings)
    store.store_measured(table)
