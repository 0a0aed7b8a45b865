"""``sealtune compare``: several ways to choose the rows, each tuned with the same steps and asked the same prompts.

A method is ``base`` (the untouched model), ``full`` (all rows), ``safeinstr`` (all rows and safety rows mixed in), or
the name of a ranker; ``NAME+safeinstr`` mixes the safety rows into the rows kept. Every method and seed is a run of its
own in a folder of its own, so finished parts are reused and one that fails takes no other along.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sealtune.core import distributed
from sealtune.core.config import Config
from sealtune.core.console import say, track
from sealtune.core.errors import RunError, StoppedError, UserError
from sealtune.core.types import Response, Verdict
from sealtune.evaluation import comparison
from sealtune.evaluation.comparison import MethodResult
from sealtune.pipeline.folder import RunFolder
from sealtune.pipeline.run import Run
from sealtune.pipeline.stages import STAGES
from sealtune.ranking import methods
from sealtune.report.page import render
from sealtune.report.view import ReportView

MIXED = "+safeinstr"
SPECIAL = ("base", "full", "safeinstr")


class Variant(NamedTuple):
    """One method with one seed."""

    method: str
    seed: int
    config: Config


def compare(config: Config) -> dict[str, Any]:
    """Run every method with every seed and write compare.json, compare.md and compare.html; gives compare.json.

    Raises:
        UserError: a method that is none, or settings that cannot be used.
        RunError: every method failed.
    """
    check(config)
    answered: list[MethodResult] = []
    failed: list[dict[str, Any]] = []
    for variant in plan(config):
        try:
            answered += _run(variant, answered)
        except StoppedError:
            raise
        except (UserError, RunError) as error:
            say(f"compare: {variant.method}, seed {variant.seed} failed: {error}")
            failed.append({"method": variant.method, "seed": variant.seed, "error": str(error)})
    if not answered:
        raise RunError(f"compare: every method failed; the first: {failed[0]['error']}")
    preferred = _prefer(config, answered)
    rows = comparison.table(answered, preferred, config.compare.reference)
    return _write(config, rows, answered, failed)


def check(config: Config) -> None:
    """Raise UserError on what can be seen before anything is run."""
    if distributed.num_processes() > 1:
        raise UserError("compare: start it without a launcher; it makes its runs one after the other in one process")
    if isinstance(config.resume_from_checkpoint, str):
        raise UserError("resume_from_checkpoint: true, for a comparison: each of its runs has checkpoints of its own")
    settings = config.compare
    for method in (*settings.methods, settings.reference):
        check_method(method)
    if settings.reference not in settings.methods:
        raise UserError(f"compare.reference: {settings.reference} is not among compare.methods; add it")
    if any(method.endswith("safeinstr") for method in settings.methods) and not settings.safety_datasets:
        raise UserError("compare.safety_datasets: none given; safeinstr mixes these rows in")
    if not config.evaluate.prompts:
        raise UserError("evaluate.prompts: none given; a comparison asks every model the same prompts")


def check_method(method: str) -> None:
    """Raise UserError, naming the nearest, where no method has this name."""
    name = method.removesuffix(MIXED)
    if method not in SPECIAL and name not in (*methods.names(), "full"):
        raise UserError(f"compare.methods: {methods.unknown(name, [*methods.names(), *SPECIAL])}")


def plan(config: Config) -> Iterator[Variant]:
    """The runs, one a method and seed; ``base`` needs none, since it is asked beside the first model that is tuned."""
    run = Run(config)
    run.folder.prepare()
    steps = config.compare.max_steps or sft_steps(config, len(run.material.candidates[0]))
    judges = [judge for judge in config.evaluate.judges if judge.name != "pairwise"]  # it needs two methods' answers
    for seed in config.compare.seeds:
        for method in config.compare.methods:
            if method == "base":
                continue
            name, mixed = method.removesuffix(MIXED), method.endswith("safeinstr")
            ranker = "random" if name in SPECIAL else name
            keep = 1.0 if name in SPECIAL else config.select.keep_ratio
            changes = {
                "seed": seed,
                "output_dir": str(Path(config.output_dir, "compare", method, f"seed-{seed}")),
                "rank": config.rank.model_copy(update={"method": ranker}),
                "tune": config.tune.model_copy(update={"max_steps": steps}),
                "select": config.select.model_copy(
                    update={
                        "keep_ratio": keep,
                        "mix_datasets": [*config.select.mix_datasets, *mixed * config.compare.safety_datasets],
                    }
                    | ({"threshold": None} if name in SPECIAL else {})
                ),
                "evaluate": config.evaluate.model_copy(update={"judges": judges, "base": False}),
            }
            yield Variant(method, seed, config.model_copy(update=changes))


def sft_steps(config: Config, rows: int) -> int:
    """Steps that the kept share of the rows takes; the same for all methods, however many rows they train on."""
    if config.tune.max_steps > 0:
        return config.tune.max_steps
    keep = config.select.keep_ratio if isinstance(config.select.keep_ratio, float) else 1.0
    batch = config.tune.per_device_train_batch_size * config.tune.gradient_accumulation_steps
    return max(1, math.ceil(keep * rows / batch * config.tune.num_train_epochs))


def _run(variant: Variant, before: Sequence[MethodResult]) -> list[MethodResult]:
    """Run a variant; the first of all asks the base model too."""
    config = variant.config
    with_base = not any(part.method == "base" for part in before)
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"base": with_base})})
    say(f"compare: {variant.method}, seed {variant.seed}")
    run = Run(config)
    run.adopt("rank", _twin(variant))
    for stage in STAGES:
        run.stage(stage)
    models = {"tuned": variant.method} | ({"base": "base"} if with_base else {})
    return [_read(run.folder, model, method, variant.seed) for model, method in models.items()]


def _twin(variant: Variant) -> RunFolder:
    """Where the rows are ranked alike: same method and seed, with safety rows where this has none, or the reverse."""
    method = variant.method
    other = method.removesuffix(MIXED) if method.endswith(MIXED) else method + MIXED
    return RunFolder(Path(variant.config.output_dir).parents[1] / other / f"seed-{variant.seed}")


def _read(folder: RunFolder, model: str, method: str, seed: int) -> MethodResult:
    """One model's part of a run, under the name of its method."""

    def own(name: str) -> list[dict[str, Any]]:
        return [row | {"model": method} for row in folder.read_jsonl(name) if row["model"] == model]

    results = folder.read_json("results.json")
    table = [row | {"model": method} for row in results["evaluation"] if row["model"] == model]
    facts = {} if model == "base" else {"rows": results["rows"], "ranking": results["ranking"], "cost": results["cost"]}
    responses = [Response(**row) for row in own("evaluate/responses.jsonl")]
    verdicts = [Verdict(**row) for row in own("evaluate/verdicts.jsonl")]
    return MethodResult(method, seed, table, responses, verdicts, facts)


def _prefer(config: Config, answered: Sequence[MethodResult]) -> list[Verdict]:
    """Verdicts of a pairwise judge between each method and the reference with the same seed."""
    from sealtune.evaluation.answer_cache import AnswerCache
    from sealtune.evaluation.judging import judge_all

    judges = [judge for judge in config.evaluate.judges if judge.name == "pairwise"]
    if not judges:
        return []
    settings = config.evaluate.model_copy(update={"judges": judges, "base": True})
    cache = AnswerCache(Path(config.output_dir, "compare", "judge_cache.jsonl"))
    references = {part.seed: part for part in answered if part.method == config.compare.reference}
    found = []
    for part in answered:
        reference = references.get(part.seed)
        if reference is None or part is reference:
            continue
        say(f"compare: {part.method} against {reference.method}, seed {part.seed}")
        verdicts = judge_all([*part.responses, *reference.responses], settings, cache, track)
        found += [verdict for verdict in verdicts if verdict.model == part.method]
    return found


def _write(
    config: Config, rows: list[dict[str, Any]], answered: Sequence[MethodResult], failed: list[dict[str, Any]]
) -> dict[str, Any]:
    folder = RunFolder(config.output_dir)
    seeds = sorted({part.seed for part in answered})
    content = {
        "model": config.model_name_or_path,
        "methods": config.compare.methods,
        "reference": config.compare.reference,
        "seeds": seeds,
        "table": rows,
        "selection": comparison.selections(answered),
        "failed": failed,
    }
    folder.write_json("compare.json", content)
    folder.write_text("compare.md", comparison.markdown(content))
    first = [part for part in answered if part.seed == seeds[0]]
    view = ReportView(
        title=f"Comparison of {len(config.compare.methods)} methods",
        config=config.model_dump(mode="json"),
        manifest={"model": config.model_name_or_path, "seeds": ", ".join(map(str, seeds)), "failed": len(failed)},
        evaluation=[row for row in rows if row["low"] is not None],
        responses=[response for part in first for response in part.responses],
        verdicts=[verdict for part in first for verdict in part.verdicts],
        rows_shown=config.report.rows_shown,
    )
    folder.write_text("compare.html", render(view))
    return content
