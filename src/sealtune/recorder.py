"""What happens beside the steps of a ranking: progress, the log, checkpoints, and a stop that loses nothing."""

from __future__ import annotations

import dataclasses
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealtune import processes
from sealtune.checkpoints import Checkpoints
from sealtune.console import Advance, say
from sealtune.records import StoppedError
from sealtune.store import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

    from sealtune.train import StepRecord


class Recorder:
    """Called after every step of a ranking. ``records`` is the log so far, that of a resumed run included."""

    def __init__(self, folder: RunFolder, inputs: Mapping[str, Any], save_steps: int, advance: Advance) -> None:
        self.checkpoints = Checkpoints(folder)
        self.inputs = inputs
        self.save_steps = save_steps
        self.advance = advance
        self.records: list[dict[str, Any]] = []
        self.left_over: list[Path] = []
        self.stop_requested: int | None = None
        """Number of the signal that asked for it."""

    def resume(self, which: bool | str) -> dict[str, Tensor] | None:
        """State of the newest checkpoint, with the log up to it; None where there is none or none is wanted."""
        if which is False:
            self.left_over = self.checkpoints.folders()
            if self.left_over:
                say(f"rank: starting anew; resume_from_checkpoint=true would go on from {self.left_over[-1]}")
            return None
        found = self.checkpoints.read(which, self.inputs)
        if found is None:
            say("rank: no checkpoint to resume from; starting at the first step")
            return None
        self.records = found.records
        say(f"rank: going on after step {found.step}")
        return found.state

    def on_step(self, record: StepRecord, total: int, state: Callable[[], dict[str, Tensor]]) -> None:
        """Show and log the step; save where it is time to, or where a stop was asked for (then raises RunError)."""
        self.records.append(dataclasses.asdict(record))
        losses = {"safe": record.safe_loss, "candidates": record.candidate_loss, "gap": record.gap}
        note = "  ".join(f"{name} {value:.3f}" for name, value in losses.items() if value is not None)
        self.advance(record.step, total, record.rows, record.tokens, note)
        if record.step == total:  # nothing is left to stop: the scores are about to be written
            return
        self.stop_requested = processes.agreed(self.stop_requested or 0) or None  # all stop after the same step
        if self.stop_requested or record.step % self.save_steps == 0:
            saved = self._save(record.step, state())
        if self.stop_requested:
            advice = "a checkpoint was saved; go on with resume_from_checkpoint=true" if saved else "nothing to resume"
            raise StoppedError(f"rank: stopped after step {record.step} of {total}; {advice}", self.stop_requested)

    def _save(self, step: int, state: dict[str, Tensor]) -> bool:
        """Write a checkpoint, unless the ranker has no state; those of an earlier start are no longer wanted then."""
        if not state:
            return False
        if self.checkpoints.folder.keeps:
            for folder in self.left_over:
                shutil.rmtree(folder)
        self.left_over = []
        self.checkpoints.write(step, state, self.inputs, self.records)
        return True

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the ranking after the step that runs; a second Ctrl-C ends it at once."""

        def ask(number: int, frame: object) -> None:
            say("rank: stopping after this step; once more to stop at once")
            self.stop_requested = number
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

        try:
            before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: signals are somebody else's
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
