"""What the page shows, as plain data: whoever renders it reads no files, and whoever reads files renders nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sealtune.core.types import Drop, Response, Scores, Verdict


def no_scores() -> Scores:
    """A ranking of no rows, for a run that has not ranked yet."""
    none = np.empty(0)
    return Scores((), (), none, none, none, none, np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class ReportView:
    """Everything the page needs. Each part may be missing; the page then leaves its section out.

    Attributes:
        title: heading of the page.
        config: the resolved configuration.
        manifest: facts about the run. Scalars at the top (``model``, ``seed``, ``command``) make one table;
            ``versions`` is a mapping of names to versions; ``stages`` maps a stage to its scalars
            (``seconds``, ``tokens``, ``peak_memory_bytes``, ...). Anything else is shown in the full listing alone.
        scores: the ranking.
        texts: prompt and response of each id.
        kept: ids kept. Empty before selection: then nothing is called kept or dropped.
        borderline: ids of rows that might as well be on the other side of the threshold.
        uncertainty: ``reliability`` (share of the variance of the scores that is not doubt), ``rows_near_the_threshold``
            and ``estimated_unsafe`` (``share``, ``low``, ``high``, ``found``); None where the ranker does not tell.
        drops: rows left out before ranking.
        rank_steps: one mapping a ranking step: step, epoch, gamma, safe_loss, candidate_loss, hat_loss, gap, rows,
            tokens, seconds; losses and gap in nats per response token.
        tune_steps: one mapping a fine-tuning step: step, loss, learning_rate.
        evaluation: rows of ``evaluation.metrics.summarise``, and losses as rows with measure ``loss`` and set ``safe``
            or ``held_out``.
        responses: answers of the models.
        verdicts: what the judges said of them.
        labels: ground truth of rows, 1 = unsafe, or None where there is none.
        rows_shown: how many rows of each end of the ranking to show in full.
    """

    title: str = "sealtune report"
    config: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    scores: Scores = field(default_factory=no_scores)
    texts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    kept: Collection[str] = frozenset()
    borderline: Collection[str] = frozenset()
    uncertainty: Mapping[str, Any] = field(default_factory=dict)
    drops: Collection[Drop] = ()
    rank_steps: Sequence[Mapping[str, Any]] = ()
    tune_steps: Sequence[Mapping[str, Any]] = ()
    evaluation: Sequence[Mapping[str, Any]] = ()
    responses: Sequence[Response] = ()
    verdicts: Sequence[Verdict] = ()
    labels: Mapping[str, int] | None = None
    rows_shown: int = 20

    @property
    def selected(self) -> bool:
        """True once rows were selected: at least one was kept."""
        return len(self.kept) > 0
