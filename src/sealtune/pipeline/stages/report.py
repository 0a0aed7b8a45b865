"""What was found is shown: results.json and report.html."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sealtune.pipeline.stages.outcome import Outcome

if TYPE_CHECKING:
    from sealtune.pipeline.run import Run


def inputs(run: Run) -> dict[str, Any]:
    """Everything that the other stages made."""
    stages = run.folder.manifest().get("stages", {})
    done = {name: entry["outputs"] for name, entry in stages.items() if name != "report"}
    for name in done.keys() & {"rank", "select", "evaluate"}:  # what is shown must be what they wrote
        run.folder.outputs_of(name)
    return run.settings("report", "label_column") | {"datasets": run.material.fingerprints["datasets"], "outputs": done}


def work(run: Run, inputs: Mapping[str, Any]) -> Outcome:
    """Write results.json and report.html from what is there."""
    from sealtune.pipeline.results import LeftOut, collect, view
    from sealtune.ranking.selection import require_same_ids
    from sealtune.report.page import render

    scores = run.folder.read_scores()
    ids = run.material.rows.samples.ids
    usable = ids.take(np.flatnonzero(~ids.isin(drop.id for drop in LeftOut(run.folder))))
    require_same_ids(scores, usable, str(run.folder.path("rank/scores.parquet")))
    results = collect(run)
    run.folder.write_json("results.json", results)
    run.folder.write_text("report.html", render(view(run, results)))
    return Outcome(["results.json", "report.html"], {})
