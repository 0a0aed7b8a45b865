"""Runs the stages: checks the configuration first, skips a finished stage, adopts one from another run."""

from __future__ import annotations

import logging
from typing import Any

from sealtune.core import distributed
from sealtune.core.checkpoints import Checkpoints
from sealtune.core.config import Config
from sealtune.core.errors import StoppedError
from sealtune.pipeline import beside, decisions, likelihood, trackers
from sealtune.pipeline.environment import git_revision, machine, measured, versions
from sealtune.pipeline.folder import RunFolder
from sealtune.pipeline.run import Run
from sealtune.pipeline.stages import STAGES, Stage, evaluate

logger = logging.getLogger(__name__)


def check_run(run: Run, *, force: bool = False) -> None:
    """Load everything that the later stages need, so that an error shows before hours of ranking.

    Args:
        run: The run.
        force: Every stage will run, even if it is finished.

    Raises:
        UserError: a setting, file or row cannot be used.
        RunError: a judge's server does not answer.
    """
    from sealtune.evaluation import harness, judging
    from sealtune.models.check import check_models
    from sealtune.ranking import methods
    from sealtune.tuning.regimes import require_guardable

    config = run.config
    if config.safe_datasets:
        require_guardable(config)
    beside.check(config)
    trackers.require_usable(config)
    methods.load_ranker(config.rank.method)
    if config.select.keep_ratio == "auto" and config.select.threshold is None:
        methods.require_estimates_unsafe_share(config.rank.method)
    check_models(config, ranks=True, tunes=True)
    judging.check(config.evaluate)
    harness.check(config.evaluate)
    if config.evaluate.prompts and distributed.is_main_process() and (force or not evaluate.is_done(run)):
        judging.require_answers(config.evaluate)
    run.inputs.load_prompts()
    likelihood.check(run)
    run.inputs.load_labels()
    for path in (config.rank.decisions, config.select.decisions):
        decisions.load_decisions(path, run.inputs.load_candidates())
    run.inputs.load_mix_rows()
    if config.evaluate.held_out_datasets:
        run.inputs.load_held_out()


def run_stage(run: Run, name: str, *, force: bool = False) -> None:
    """Run one stage. Skip it if it was finished from the same inputs and its files are unchanged.

    Raises:
        StoppedError: a signal requested a stop.
    """
    stage = STAGES[name]
    if stage.all_processes:
        _run_stage(run, name, stage, force=force)
    elif distributed.is_main_process():
        with distributed.main_process_only():
            _run_stage(run, name, stage, force=force)
    distributed.barrier()  # the next stage reads what this one wrote


def _run_stage(run: Run, name: str, stage: Stage, *, force: bool) -> None:
    run.folder.prepare()
    dependencies = stage.depends_on(run)
    if distributed.all_reduce_max(not force and run.folder.is_done(name, dependencies)):
        logger.info("%s: finished before from the same inputs; skipped", name)
        return
    _check_models(run, name)
    provenance = _provenance(run)
    with measured() as cost:
        outcome = stage.work(run, dependencies)
    run.folder.finish_stage(name, dependencies, outcome.files, cost | dict(outcome.facts), provenance)
    Checkpoints(run.folder, name).remove()
    logger.info("%s: finished in %.0f s", name, cost["seconds"])
    if run.stop_requested:  # too late to interrupt this stage
        raise StoppedError(f"stopped after {name}, which is finished; start again to resume", run.stop_requested)


def _check_models(run: Run, name: str) -> None:
    """Raise UserError if a stage that trains cannot work with its model; ``check_run`` was not called for one stage."""
    from sealtune.models.check import check_models

    if name in ("rank", "tune"):
        check_models(run.config, ranks=name == "rank", tunes=name == "tune")


def adopt_stage(run: Run, name: str, lender: RunFolder) -> None:
    """Copy a stage from another run's folder, if it was finished there from the same inputs."""
    run.folder.prepare()
    if run.folder.adopt(name, STAGES[name].depends_on(run), lender, _provenance(run)):
        logger.info("%s: copied from %s, which has the same inputs", name, lender.root)


def _provenance(run: Run) -> dict[str, Any]:
    """The top level of the manifest: code, configuration and machine."""
    return {
        "sealtune": versions()["sealtune"],
        "git_revision": git_revision(),
        "model": run.config.model_name_or_path,
        "seed": run.config.seed,
        "config": _config(run.config),
        "versions": versions(),
        "machine": machine(),
    }


def _config(config: Config) -> dict[str, Any]:
    """The complete config, but for layers that the user did not name: each model's family has its own."""
    dumped = config.model_dump(mode="json")
    for name, block in (("rank", config.rank), ("tune", config.tune)):
        if "lora_target_modules" not in block.model_fields_set:
            del dumped[name]["lora_target_modules"]
    return dumped
