"""What happens beside the steps of a stage: progress, the log, checkpoints, and a stop that loses nothing."""

from __future__ import annotations

import dataclasses
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealtune import processes
from sealtune.checkpoints import Checkpoint, Checkpoints
from sealtune.console import Advance, say
from sealtune.records import StoppedError
from sealtune.store import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

    from sealtune.train import StepRecord

LOG_MOST = 20_000
"""Records that a log holds at most: more than a picture shows, and each checkpoint carries all of them."""

SUMS, MEANS = ("rows", "tokens", "seconds"), ("safe_loss", "candidate_loss", "hat_loss", "gap")
"""What neighbours have together once they are one record, a mean by their rows; the rest is as of the later."""


class Safeguard:
    """Saves a stage at the right moments, and turns Ctrl-C and SIGTERM into one of them."""

    def __init__(self, stage: str, folder: RunFolder, inputs: Mapping[str, Any], save_steps: int) -> None:
        self.stage = stage
        self.checkpoints = Checkpoints(folder, stage)
        self.inputs = inputs
        self.save_steps = save_steps
        self.left_over: list[Path] = []
        self.stop_requested: int | None = None
        """Number of the signal that asked for it."""
        self.stops_with = 0
        """The same, once all processes know of it."""

    def resume(self, which: bool | str) -> Checkpoint | None:
        """The newest checkpoint; None where there is none or none is wanted."""
        if which is False:
            self.left_over = self.checkpoints.folders()
            if self.left_over:
                say(f"{self.stage}: starting anew; resume_from_checkpoint=true would go on from {self.left_over[-1]}")
            return None
        found = self.checkpoints.read(which, self.inputs)
        if found is None:
            say(f"{self.stage}: no checkpoint to resume from; starting at the first step")
        else:
            say(f"{self.stage}: going on after step {found.step}")
        return found

    def is_due(self, step: int, total: int) -> bool:
        """Whether to save after this step. Never after the last: nothing is left to stop, the outcome is written."""
        if step == total:
            return False
        self.stops_with = processes.agreed(self.stop_requested or 0)  # all stop after the same step
        return bool(self.stops_with) or step % self.save_steps == 0

    def save(self, checkpoint: Checkpoint, total: int) -> None:
        """Write a checkpoint, unless it has no state. Raises StoppedError where a stop was asked for."""
        saved = bool(checkpoint.state)
        if saved:
            if self.checkpoints.folder.keeps:
                for folder in self.left_over:  # of an earlier start: no longer wanted
                    shutil.rmtree(folder)
            self.left_over = []
            self.checkpoints.write(checkpoint, self.inputs)
        if self.stops_with:
            advice = "a checkpoint was saved; go on with resume_from_checkpoint=true" if saved else "nothing to resume"
            where = f"{self.stage}: stopped after step {checkpoint.step} of {total}"
            raise StoppedError(f"{where}; {advice}", self.stops_with)

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the stage after the step that runs; Ctrl-C after that ends it at once.

        SIGTERM after that changes nothing: a scheduler that stops all processes of a job and a launcher that passes it
        on both send one.
        """

        def ask(number: int, frame: object) -> None:
            say(f"{self.stage}: stopping after this step; Ctrl-C to stop at once")
            self.stop_requested = number
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

        try:
            before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: signals are somebody else's
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Recorder(Safeguard):
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
