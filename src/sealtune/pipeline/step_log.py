"""What happens beside the steps of a stage: progress, the log, checkpoints, and a stop that loses nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sealtune.core.checkpoints import Checkpoint, Checkpointer
from sealtune.core.console import Advance
from sealtune.pipeline.folder import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

    from sealtune.ranking.progress import StepRecord

LOG_MOST = 20_000
"""Records that a log holds at most: more than a picture shows, and each checkpoint carries all of them."""

SUMS, MEANS = ("rows", "tokens", "seconds"), ("safe_loss", "candidate_loss", "hat_loss", "gap")
"""What neighbours have together once they are one record, a mean by their rows; the rest is as of the later."""


class StepLog(Checkpointer):
    """Called after every step of a ranking. ``records`` is the log so far, that of a resumed run included."""

    def __init__(self, folder: RunFolder, inputs: Mapping[str, Any], save_steps: int, advance: Advance) -> None:
        super().__init__("rank", folder, inputs, save_steps)
        self.advance = advance
        self.records: list[dict[str, Any]] = []

    def resume(self, which: bool | str) -> Checkpoint | None:
        """The newest checkpoint, with the log up to it; None where there is none or none is wanted."""
        found = super().resume(which)
        self.records = found.records if found else []
        return found

    def on_step(self, record: StepRecord, total: int, state: Callable[[], dict[str, Tensor]]) -> None:
        """Show and log the step; save where it is time to, or where a stop was asked for (then raises StoppedError)."""
        self.records.append(dataclasses.asdict(record))
        if len(self.records) > LOG_MOST:
            self.records = in_pairs(self.records)
        losses = {"safe": record.safe_loss, "candidates": record.candidate_loss, "gap": record.gap}
        note = "  ".join(f"{name} {value:.3f}" for name, value in losses.items() if value is not None)
        self.advance(record.step, total, record.rows, record.tokens, note)
        if self.is_due(record.step, total):
            self.save(Checkpoint(record.step, state(), self.records), total)


def in_pairs(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Half as many records, each of two neighbours; done again and again, the oldest steps are told most coarsely."""
    pairs = [records[i : i + 2] for i in range(0, len(records), 2)]
    return [_joined(pair) for pair in pairs]


def _joined(pair: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def mean(name: str) -> float | None:
        known = [(record[name], record["rows"]) for record in pair if record[name] is not None]
        return sum(value * rows for value, rows in known) / sum(rows for _, rows in known) if known else None

    sums = {name: sum(record[name] for record in pair) for name in SUMS}
    return {**pair[-1], **{name: mean(name) for name in MEANS}, **sums}
