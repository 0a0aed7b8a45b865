"""The five stages, a file each: ``inputs`` are all the things that the outcome depends on; ``work`` makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from sealtune.pipeline.stages import evaluate, rank, report, select, tune
from sealtune.pipeline.stages.outcome import Outcome

if TYPE_CHECKING:
    from sealtune.pipeline.run import Run


class Stage(NamedTuple):
    """One stage; ``shared``: by all processes, else the first does it alone."""

    inputs: Callable[[Run], dict[str, Any]]
    work: Callable[[Run, Mapping[str, Any]], Outcome]
    shared: bool = False


STAGES = {
    "rank": Stage(rank.inputs, rank.work, shared=True),
    "select": Stage(select.inputs, select.work),
    "tune": Stage(tune.inputs, tune.work, shared=True),
    "evaluate": Stage(evaluate.inputs, evaluate.work),
    "report": Stage(report.inputs, report.work),
}
