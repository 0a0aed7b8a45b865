"""The step log of a ranking, with progress, checkpoints, and stops that lose no work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sealtune.core.checkpoints import Checkpoint, Checkpointer
from sealtune.core.console import Advance
from sealtune.pipeline.folder import RunFolder
from sealtune.pipeline.trackers import Trackers

if TYPE_CHECKING:
    from torch import Tensor

    from sealtune.ranking.progress import StepRecord

MAX_RECORDS = 20_000
"""Most records in a log: more than a figure can show, and every checkpoint contains all of them."""

SUMS, MEANS = ("rows", "tokens", "seconds"), ("safe_loss", "candidate_loss", "hat_loss", "gap", "effective_share")
"""Fields that are added, or averaged by rows, when two records are merged; the others are those of the later step."""


class StepLog(Checkpointer):
    """Logs every step of a ranking, shows its progress, and saves checkpoints.

    Attributes:
        records: The log so far, including that of the run that was resumed.
    """

    def __init__(
        self,
        folder: RunFolder,
        inputs: Mapping[str, Any],
        save_steps: int,
        advance: Advance,
        trackers: Trackers | None = None,
    ) -> None:
        super().__init__("rank", folder, inputs, save_steps)
        self.advance = advance
        self.trackers = trackers or Trackers()
        self.records: list[dict[str, Any]] = []

    def resume(self, which: bool | str) -> Checkpoint | None:
        """The checkpoint to resume from, whose log is continued; None to start at the first step."""
        found = super().resume(which)
        self.records = found.records if found else []
        return found

    def on_step(self, record: StepRecord, total: int, state: Callable[[], dict[str, Tensor]]) -> None:
        """Log one step, and save a checkpoint if it is due.

        Args:
            record: The step.
            total: Steps in total.
            state: Returns the state to save.

        Raises:
            StoppedError: a stop was requested; the checkpoint is saved.
        """
        self.records.append(dataclasses.asdict(record))
        if len(self.records) > MAX_RECORDS:
            self.records = merge_pairs(self.records)
        losses = {"safe": record.safe_loss, "candidates": record.candidate_loss, "gap": record.gap}
        note = "  ".join(f"{name} {value:.3f}" for name, value in losses.items() if value is not None)
        self.advance(record.step, total, record.rows, record.tokens, note)
        self.trackers.log(record.step, {name: getattr(record, name) for name in (*MEANS, "gamma", "rows", "tokens")})
        if self.should_save(record.step, total):
            self.save(Checkpoint(record.step, state(), self.records), total)


def merge_pairs(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Half as many records: each pair of neighbours is merged. After repeated merges, early steps are coarsest."""
    pairs = [records[i : i + 2] for i in range(0, len(records), 2)]
    return [_merged(pair) for pair in pairs]


def _merged(pair: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def mean(name: str) -> float | None:
        known = [(record[name], record["rows"]) for record in pair if record.get(name) is not None]
        return sum(value * rows for value, rows in known) / sum(rows for _, rows in known) if known else None

    sums = {name: sum(record[name] for record in pair) for name in SUMS}
    return {**pair[-1], **{name: mean(name) for name in MEANS}, **sums}
