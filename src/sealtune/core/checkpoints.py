"""Rankings and tunings between two steps, on disk: what a stopped run goes on from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sealtune.core import distributed
from sealtune.core.console import say
from sealtune.core.errors import StoppedError, UserError
from sealtune.core.files import Folder, hash_file
from sealtune.core.json_rows import plain

if TYPE_CHECKING:
    from torch import Tensor


if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINTS_KEPT = 2
PLACES = {"rank": "rank", "tune": "tuning"}
"""Stage -> folder of its checkpoints. Not ``tune``, which is replaced as a whole when the tuned model is written."""

KINDS = {"stage": str, "step": int, "inputs": dict, "records": list, "rest": dict}
"""What a checkpoint says of itself."""


class Checkpoint(NamedTuple):
    """A stage between two steps: its tensors, the log so far, and what else it needs and JSON can hold."""

    step: int
    state: dict[str, Tensor]
    records: list[dict[str, Any]]
    rest: dict[str, Any] = {}  # noqa: RUF012


class Checkpoints:
    """The checkpoints of a stage, ``rank/checkpoint-<step>/`` or ``tuning/checkpoint-<step>/``."""

    def __init__(self, folder: Folder, stage: str) -> None:
        self.folder = folder
        self.stage = stage
        self.place = PLACES.get(stage, stage)

    def write(self, found: Checkpoint, inputs: Mapping[str, Any]) -> None:
        """Write checkpoint-<step>/, with what it was made from; the last two are kept."""
        if not self.folder.keeps:
            return
        from safetensors.torch import save_file

        with self.folder.whole_folder(f"{self.place}/checkpoint-{found.step}") as scratch:
            save_file(
                {name: value.detach().cpu().contiguous() for name, value in found.state.items()},
                scratch / "state.safetensors",
            )
            digest = hash_file(scratch / "state.safetensors")
            about = {"stage": self.stage, "step": found.step, "sha256": digest, "inputs": inputs}
            about |= {"records": found.records, "rest": found.rest}
            sealed = seal(json.loads(json.dumps(about, default=plain)))
            (scratch / "checkpoint.json").write_text(json.dumps(sealed, indent=2), encoding="utf-8")
        folders = self.folders()
        earlier = [p for p in folders if _step(p) <= found.step]
        later = folders[len(earlier) :]  # of a run that went on from before them
        for old in (*earlier[:-CHECKPOINTS_KEPT], *later):
            shutil.rmtree(old)

    def folders(self) -> list[Path]:
        """Checkpoint folders, the newest last."""
        found = [
            p
            for p in self.folder.path(self.place).glob("checkpoint-*")
            if p.name.rpartition("-")[2].isdecimal() and not p.is_symlink()
        ]
        return sorted(found, key=_step)

    def remove(self) -> None:
        """Remove them all: the stage is finished."""
        if not self.folder.keeps:
            return
        for folder in self.folders():
            shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # not there, or something else lies in it
            self.folder.path(self.place).rmdir()

    def read(self, which: bool | str, inputs: Mapping[str, Any]) -> Checkpoint | None:
        """The newest whole checkpoint (or the folder ``which``, if it is of this stage); None where there is none.

        Raises:
            UserError: it was made from other data, another model or another config (what differs is named), or the
                folder asked for is missing or damaged.
        """
        folders = self.folders()
        if isinstance(which, str) and not self._is_of_another_stage(Path(which)):
            about = _read_about(Path(which))
            if about is None:
                raise UserError(f"{which}: not a whole checkpoint; name another, or resume_from_checkpoint=true")
            if about["stage"] == self.stage:
                folders = [Path(which)]
        for folder in reversed(folders):
            if about := _read_about(folder):
                _require_same_inputs(folder, about["inputs"], inputs)
                return _load(folder, about)
            say(f"{folder}: damaged; passed over")
        return None

    def _is_of_another_stage(self, named: Path) -> bool:
        """Whether it lies where another stage of this run has its checkpoints: it may be gone, since that has ended."""
        others = (place for stage, place in PLACES.items() if stage != self.stage)
        return any(named.parent.resolve() == self.folder.path(place).resolve() for place in others)


def seal(about: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of itself, with a hash of it."""
    said = {name: value for name, value in about.items() if name != "seal"}
    return said | {"seal": hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()}


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _load(folder: Path, about: dict[str, Any]) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(folder / "state.safetensors")
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder}: not a checkpoint of sealtune ({error}); delete it") from None
    return Checkpoint(about["step"], state, about["records"], about["rest"])


def _read_about(folder: Path) -> dict[str, Any] | None:
    """What a checkpoint says of itself; None where it is damaged."""
    try:
        about: dict[str, Any] = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
        whole = hash_file(folder / "state.safetensors") == about["sha256"]
        whole = whole and about == seal(about) and all(isinstance(about[name], kind) for name, kind in KINDS.items())
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return about if whole else None


def _require_same_inputs(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    current = json.loads(json.dumps(now, default=plain))
    differing = list(_differing(then, current))
    if differing:
        raise UserError(
            f"{folder}: was made with another {', '.join(differing)}; give what it was made with, or start again in "
            "another output_dir or with resume_from_checkpoint=false"
        )


def _differing(then: Mapping[str, Any], now: Mapping[str, Any], block: str = "") -> Iterator[str]:
    """Names of the settings and files that are not the same, as in ``tune.learning_rate``."""
    for name in sorted({*then, *now}):
        before, after = then.get(name), now.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differing(before, after, f"{block}{name}.")
        elif before != after:
            yield block + name


class Checkpointer:
    """Saves a stage at the right moments, and turns Ctrl-C and SIGTERM into one of them."""

    def __init__(self, stage: str, folder: Folder, inputs: Mapping[str, Any], save_steps: int) -> None:
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
        self.stops_with = distributed.all_reduce_max(self.stop_requested or 0)  # all stop after the same step
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
