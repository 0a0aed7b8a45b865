"""The five stages, one file per stage: ``depends_on`` lists what the result depends on, ``work`` makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from sealtune.pipeline.stages import evaluate, rank, report, select, tune
from sealtune.pipeline.stages.outcome import Outcome

if TYPE_CHECKING:
    from sealtune.pipeline.run import Run


class Stage(NamedTuple):
    """One stage. It runs in the main process alone, unless ``all_processes`` is set."""

    depends_on: Callable[[Run], dict[str, Any]]
    work: Callable[[Run, Mapping[str, Any]], Outcome]
    all_processes: bool = False


STAGES = {
    "rank": Stage(rank.depends_on, rank.work, all_processes=True),
    "select": Stage(select.depends_on, select.work),
    "tune": Stage(tune.depends_on, tune.work, all_processes=True),
    "evaluate": Stage(evaluate.depends_on, evaluate.work),
    "report": Stage(report.depends_on, report.work),
}
