"""The content of the report as plain data: rendering reads no files, and reading files renders nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sealtune.core.types import Decision, Drop, Neighbours, Response, Scores, Verdict


def empty_scores() -> Scores:
    """The scores of no rows, for a page without a ranking."""
    none = np.empty(0)
    return Scores((), (), none, none, none, none, np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class ReportView:
    """Everything that the page shows. Every part is optional; the page omits the sections of missing parts.

    Attributes:
        title: heading of the page.
        config: the resolved configuration.
        manifest: facts about the run. Top-level scalars (``model``, ``seed``, ``command``) form one table;
            ``versions`` maps names to versions; ``stages`` maps a stage to its scalars (``seconds``, ``tokens``,
            ``peak_memory_bytes``, ...). Everything else appears only in the full manifest.
        scores: the ranking.
        texts: prompt and response by id.
        neighbours: the rows that are most alike each row to the ranker, by id.
        safe_texts: prompt and response of safe rows by id, for ``neighbours``.
        kept: ids of the rows that were kept; empty before selection, when rows are neither kept nor dropped.
        decisions: what people decided about rows when these were selected, by id.
        borderline: ids of the rows close to the threshold.
        uncertainty: ``reliability`` (share of the variance of the scores that is not error variance),
            ``borderline_rows`` and ``estimated_unsafe`` (``share``, ``low``, ``high``, ``significant``); None where
            the ranker does not estimate them.
        drops: rows excluded before ranking.
        rank_steps: one mapping per ranking step: step, epoch, gamma, safe_loss, candidate_loss, hat_loss, gap, rows,
            tokens, seconds; losses and gap in nats per response token.
        tune_steps: one mapping per fine-tuning step: step, loss, learning_rate.
        guard: how the safe set was in force during the fine-tuning: ``mode`` (``off``: not at all), ``tolerance``,
            ``history`` (step, refuse, help, discrimination; step 0 is the start model), ``kept_step`` and ``steps``;
            None before the fine-tuning.
        safe_set: what the safe set has and lacks: name, ``severity`` (warning, advice or fine), fact, advice.
        evaluation: rows of the evaluation table, including losses (measure ``loss``, set ``safe`` or ``held_out``).
            Rows of other runs have a ``source``.
        beside: these other runs: ``name``, ``source``, and ``notes`` on what is not comparable.
        responses: responses of the models to the evaluation prompts.
        verdicts: the judges' verdicts on these responses.
        labels: ground truth by id, 1 = unsafe; None without labels.
        rows_shown: how many rows to show in full at each end of the ranking.
    """

    title: str = "sealtune report"
    config: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    scores: Scores = field(default_factory=empty_scores)
    texts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    neighbours: Mapping[str, Neighbours] = field(default_factory=dict)
    safe_texts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    kept: Collection[str] = frozenset()
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    borderline: Collection[str] = frozenset()
    uncertainty: Mapping[str, Any] = field(default_factory=dict)
    drops: Collection[Drop] = ()
    rank_steps: Sequence[Mapping[str, Any]] = ()
    tune_steps: Sequence[Mapping[str, Any]] = ()
    guard: Mapping[str, Any] | None = None
    safe_set: Sequence[Mapping[str, Any]] = ()
    evaluation: Sequence[Mapping[str, Any]] = ()
    beside: Sequence[Mapping[str, Any]] = ()
    responses: Sequence[Response] = ()
    verdicts: Sequence[Verdict] = ()
    labels: Mapping[str, int] | None = None
    rows_shown: int = 20

    @property
    def has_selection(self) -> bool:
        """Whether rows were selected, that is, whether at least one was kept."""
        return len(self.kept) > 0


def has_stage(view: ReportView, name: str) -> bool:
    """Whether the run has finished this stage."""
    return name in view.manifest.get("stages", ())
