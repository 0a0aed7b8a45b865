"""Writes results.json and report.html."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sealtune.pipeline.beside import fingerprints
from sealtune.pipeline.stages.outcome import Outcome

if TYPE_CHECKING:
    from sealtune.pipeline.results import Findings
    from sealtune.pipeline.run import Run


def depends_on(run: Run) -> dict[str, Any]:
    """The files of all other stages, the safe set that is examined, and the results of other runs."""
    stages = run.folder.manifest().stages
    done = {name: entry.outputs for name, entry in stages.items() if name != "report"}
    for name in done.keys() & {"rank", "select", "evaluate"}:  # the report must not show files that were changed
        run.folder.outputs_of(name)
    settings = run.settings("report", "label_column", "label_threshold")
    config, inputs = run.config, run.inputs.fingerprints()
    also = {
        "safe_datasets": inputs["safe_datasets"],
        "guard_column": config.tune.guard_column,
        "prompts": [c.model_dump(mode="json") for c in config.evaluate.prompts],
        "likelihood": config.evaluate.likelihood,
        "beside": fingerprints(config),
    }
    return {**settings, "datasets": inputs["datasets"], **also, "outputs": done}


def work(run: Run, dependencies: Mapping[str, Any]) -> Outcome:
    """Write results.json and report.html from the stages that are finished."""
    from sealtune.pipeline.results import collect, read_findings, view
    from sealtune.report.page import render

    findings = read_findings(run.folder)
    _require_same_candidates(run, findings)
    results = collect(run, findings)
    run.folder.write_json("results.json", results)
    run.folder.write_text("report.html", render(view(run, findings, results)))
    return Outcome(["results.json", "report.html"], {})


def _require_same_candidates(run: Run, findings: Findings) -> None:
    """Raise UserError if the candidates are not those that were ranked."""
    from sealtune.ranking.selection import require_same_ids

    ids = run.inputs.load_rows().samples.ids
    usable = ids.take(np.flatnonzero(~ids.isin(drop.id for drop in findings.drops)))
    require_same_ids(findings.scores, usable, str(run.folder.path("rank/scores.parquet")))
