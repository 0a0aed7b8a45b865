"""``sealtune compare``: several ways to select rows; all models train equally long and answer the same prompts.

A method is ``base`` (the untuned model), ``full`` (all rows) or a ranker. ``NAME+safeinstr`` adds safety rows to the
rows kept, and ``NAME+guard`` keeps the safe set in force while the model is tuned; ``safeinstr`` and ``guard`` alone do
so with all rows. Each method and seed is a run in its own folder, so finished stages are reused and a failed run does
not affect the others.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sealtune.core import distributed
from sealtune.core.config import Config, TuneConfig
from sealtune.core.console import track
from sealtune.core.errors import RunError, StoppedError, UserError
from sealtune.core.types import Response, Verdict
from sealtune.evaluation import comparison
from sealtune.evaluation.comparison import MethodResult
from sealtune.evaluation.judges import load_judge
from sealtune.evaluation.judging import require_answers
from sealtune.models.check import check_models
from sealtune.pipeline import beside
from sealtune.pipeline.folder import RunFolder
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import adopt_stage, run_stage
from sealtune.pipeline.stages import STAGES
from sealtune.ranking import methods
from sealtune.report.page import render
from sealtune.report.view import ReportView

logger = logging.getLogger(__name__)

ALL_ROWS = ("base", "full")
"""Methods that keep all rows."""
EXTRAS = ("safeinstr", "guard")
"""What a method can do beside selecting rows."""


class Variant(NamedTuple):
    """One method with one seed."""

    method: str
    seed: int
    config: Config


def compare(config: Config) -> dict[str, Any]:
    """Run every method with every seed; write compare.json, compare.md and compare.html.

    Returns:
        The content of compare.json.

    Raises:
        UserError: an unknown method, or settings that cannot be used.
        RunError: every method failed.
        StoppedError: a signal requested a stop.
    """
    check(config)
    results: list[MethodResult] = []
    failed: list[dict[str, Any]] = []
    variants = plan(config)
    if any(not Run(variant.config).folder.path("evaluate/results.json").exists() for variant in variants):
        require_answers(config.evaluate)  # before anything is ranked
    for variant in variants:
        try:
            results += _run(variant, results)
        except StoppedError:
            raise
        except (UserError, RunError) as error:
            logger.warning("compare: %s, seed %d failed: %s", variant.method, variant.seed, error)
            failed.append({"method": variant.method, "seed": variant.seed, "error": str(error)})
    if not results:
        raise RunError(f"compare: every method failed; the first: {failed[0]['error']}")
    table = comparison.table(results, _preferences(config, results), config.compare.reference)
    return _write(config, table, results, failed)


def check(config: Config) -> None:
    """Raise UserError on settings that cannot be compared, before anything runs."""
    if distributed.num_processes() > 1:
        raise UserError("compare: start it without a launcher; its runs follow each other in one process")
    if isinstance(config.resume_from_checkpoint, str):
        raise UserError("resume_from_checkpoint: use true for a comparison; each of its runs has its own checkpoints")
    beside.check(config)
    check_models(config, ranks=True, tunes=True)
    settings = config.compare
    for method in (*settings.methods, settings.reference):
        check_method(method)
    if settings.reference not in settings.methods:
        raise UserError(f"compare.reference: {settings.reference} is not among compare.methods; add it")
    if any("safeinstr" in split(method)[1] for method in settings.methods) and not settings.safety_datasets:
        raise UserError("compare.safety_datasets: none given; safeinstr adds these rows")
    if not config.evaluate.prompts:
        raise UserError("evaluate.prompts: none given; a comparison asks every model the same prompts")


def check_method(method: str) -> None:
    """Raise UserError, with the closest name, if there is no such method."""
    name, extras = split(method)
    known = [*methods.names(), *ALL_ROWS]
    for word in (name, *extras):
        if word not in (*known, *EXTRAS):
            raise UserError(f"compare.methods: {methods.unknown(word, [*known, *EXTRAS])}")
    if name not in known or set(extras) - set(EXTRAS) or (name == "base" and extras):
        raise UserError(
            f"compare.methods: {method!r} is no method; base stands alone, and only +safeinstr and +guard follow"
        )


def split(method: str) -> tuple[str, list[str]]:
    """How a method selects rows, and what it does beside: ``guard`` is ``full+guard``."""
    first, *extras = method.split("+")
    return ("full", [first, *extras]) if first in EXTRAS else (first, extras)


def plan(config: Config) -> list[Variant]:
    """The runs, one per method and seed. ``base`` needs none: the first run evaluates the base model, too."""
    run = Run(config)
    run.folder.prepare()
    steps = config.compare.max_steps or sft_steps(config, len(run.inputs.load_candidates().encoded))
    return [
        Variant(method, seed, config_for(config, method, seed, steps))
        for seed in config.compare.seeds
        for method in config.compare.methods
        if method != "base"
    ]


def config_for(config: Config, method: str, seed: int, max_steps: int) -> Config:
    """The configuration of the run of one method with one seed."""
    rank, select, evaluate = config.rank.model_copy(), config.select.model_copy(), config.evaluate.model_copy()
    rank.method, extras = split(method)
    tune = config.tune.model_copy(update={"max_steps": max_steps})
    if "guard" not in extras:
        tune.guard = "off"
    elif tune.guard == "off":
        tune.guard = TuneConfig().guard
    if rank.method in ALL_ROWS:
        rank.method = "random"
        select.keep_ratio, select.threshold = 1.0, None
    if "safeinstr" in extras:
        select.mix_datasets = [*select.mix_datasets, *config.compare.safety_datasets]
    evaluate.judges = [judge for judge in evaluate.judges if not load_judge(judge.name).pairwise]
    evaluate.base = False
    evaluate.own_openings = False  # only the first run asks the base model: all must count the same openings
    changes = {
        "seed": seed,
        "output_dir": str(Path(config.output_dir, "compare", method, f"seed-{seed}")),
        "rank": rank,
        "select": select,
        "tune": tune,
        "evaluate": evaluate,
    }
    return config.model_copy(update=changes)


def sft_steps(config: Config, rows: int) -> int:
    """Optimizer steps of every method, whatever its number of rows: those that the kept share of the rows takes."""
    if config.tune.max_steps > 0:
        return config.tune.max_steps
    keep = config.select.keep_ratio if isinstance(config.select.keep_ratio, float) else 1.0
    batch = config.tune.per_device_train_batch_size * config.tune.gradient_accumulation_steps
    return max(1, math.ceil(keep * rows / batch * config.tune.num_train_epochs))


def _run(variant: Variant, before: Sequence[MethodResult]) -> list[MethodResult]:
    """Run one variant. The first run evaluates the base model, too."""
    with_base = not any(result.method == "base" for result in before)
    evaluate = variant.config.evaluate.model_copy(update={"base": with_base})
    logger.info("compare: %s, seed %d", variant.method, variant.seed)
    run = Run(variant.config.model_copy(update={"evaluate": evaluate}))
    for twin in _twins(variant):
        adopt_stage(run, "rank", twin)
    for stage in STAGES:
        run_stage(run, stage)
    models = {"tuned": variant.method} | ({"base": "base"} if with_base else {})
    return [_read(run.folder, model, method, variant.seed) for model, method in models.items()]


def _twins(variant: Variant) -> list[RunFolder]:
    """The runs with the same ranking: of the same ranker and seed, with other extras."""
    ranker, _ = split(variant.method)
    others = (ranker, *("+".join((ranker, *extras)) for extras in (["safeinstr"], ["guard"], ["safeinstr", "guard"])))
    folder = Path(variant.config.output_dir).parents[1]
    return [RunFolder(folder / other / f"seed-{variant.seed}") for other in others if other != variant.method]


def _read(folder: RunFolder, model: str, method: str, seed: int) -> MethodResult:
    """One model's results from a run, under the name of its method."""

    def own(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row | {"model": method} for row in rows if row["model"] == model]

    results = folder.read_json("results.json")
    facts = {} if model == "base" else {"rows": results["rows"], "ranking": results["ranking"], "cost": results["cost"]}
    responses = [Response(**row) for row in own(folder.read_jsonl("evaluate/responses.jsonl"))]
    verdicts = [Verdict(**row) for row in own(folder.read_jsonl("evaluate/verdicts.jsonl"))]
    return MethodResult(method, seed, own(results["evaluation"]), responses, verdicts, facts)


def _preferences(config: Config, results: Sequence[MethodResult]) -> list[Verdict]:
    """Verdicts of a pairwise judge between each method and the reference with the same seed."""
    from sealtune.evaluation.answer_cache import AnswerCache
    from sealtune.evaluation.judging import judge_all

    judges = [judge for judge in config.evaluate.judges if load_judge(judge.name).pairwise]
    if not judges:
        return []
    settings = config.evaluate.model_copy(update={"judges": judges, "base": True})
    cache = AnswerCache(Path(config.output_dir, "compare", "judge_cache.jsonl"))
    references = {result.seed: result for result in results if result.method == config.compare.reference}
    preferences = []
    for result in results:
        reference = references.get(result.seed)
        if reference is None or result is reference:
            continue
        logger.info("compare: %s against %s, seed %d", result.method, reference.method, result.seed)
        verdicts = judge_all([*result.responses, *reference.responses], settings, cache, track)
        preferences += [verdict for verdict in verdicts if verdict.model == result.method]
    return preferences


def _write(
    config: Config, table: list[dict[str, Any]], results: Sequence[MethodResult], failed: list[dict[str, Any]]
) -> dict[str, Any]:
    folder = RunFolder(config.output_dir)
    content = {
        "model": config.model_name_or_path,
        "methods": config.compare.methods,
        "reference": config.compare.reference,
        "seeds": sorted({result.seed for result in results}),
        "table": table,
        "selection": comparison.selections(results),
        "failed": failed,
    }
    folder.write_json("compare.json", content)
    folder.write_text("compare.md", comparison.markdown(content))
    folder.write_text("compare.html", render(_view(config, content, results)))
    return content


def _view(config: Config, content: dict[str, Any], results: Sequence[MethodResult]) -> ReportView:
    """The page of the comparison. It shows the answers with the first seed."""
    seeds = content["seeds"]
    shown = [result for result in results if result.seed == seeds[0]]
    return ReportView(
        title=f"Comparison of {len(config.compare.methods)} methods",
        config=config.model_dump(mode="json"),
        manifest={
            "model": config.model_name_or_path,
            "seeds": ", ".join(map(str, seeds)),
            "failed": len(content["failed"]),
        },
        evaluation=[row for row in content["table"] if row["low"] is not None],
        responses=[response for result in shown for response in result.responses],
        verdicts=[verdict for result in shown for verdict in result.verdicts],
        rows_shown=config.report.rows_shown,
    )
