"""Checkpoints of ranking and tuning: written between two steps, and resumed from after an interruption."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sealtune.core import distributed
from sealtune.core.errors import StoppedError, UserError
from sealtune.core.files import Folder, hash_file
from sealtune.core.json_rows import to_json_type

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

SAVE_TOTAL_LIMIT = 2
"""Checkpoints kept per stage."""
FOLDERS = {"rank": "rank", "tune": "tuning"}
"""Stage -> folder of its checkpoints. Not ``tune``, which is replaced when the tuned model is saved."""
FIELDS = {"stage": str, "step": int, "inputs": dict, "records": list, "rest": dict}
"""Fields of ``checkpoint.json`` and their types; ``sha256`` and ``seal`` are checked by value."""


class Checkpoint(NamedTuple):
    """The state of a stage between two steps: tensors, the log so far, and other values that JSON can hold."""

    step: int
    state: dict[str, Tensor]
    records: list[dict[str, Any]]
    rest: dict[str, Any] = {}  # noqa: RUF012


class Checkpoints:
    """The checkpoints of a stage, ``rank/checkpoint-<step>/`` or ``tuning/checkpoint-<step>/``."""

    def __init__(self, folder: Folder, stage: str) -> None:
        self.folder = folder
        self.stage = stage
        self.subfolder = FOLDERS.get(stage, stage)

    def write(self, checkpoint: Checkpoint, inputs: Mapping[str, Any]) -> None:
        """Write ``checkpoint-<step>/`` with the inputs of the stage, and delete all but the newest two."""
        if self.folder.read_only:
            return
        from safetensors.torch import save_file

        with self.folder.atomic_folder(f"{self.subfolder}/checkpoint-{checkpoint.step}") as scratch:
            save_file(
                {name: value.detach().cpu().contiguous() for name, value in checkpoint.state.items()},
                scratch / "state.safetensors",
            )
            metadata = {
                "stage": self.stage,
                "step": checkpoint.step,
                "sha256": hash_file(scratch / "state.safetensors"),
                "inputs": inputs,
                "records": checkpoint.records,
                "rest": checkpoint.rest,
            }
            sealed = seal(json.loads(json.dumps(metadata, default=to_json_type)))
            (scratch / "checkpoint.json").write_text(json.dumps(sealed, indent=2), encoding="utf-8")
        self._delete_old(checkpoint.step)

    def _delete_old(self, step: int) -> None:
        folders = self.folders()
        earlier = [folder for folder in folders if _step(folder) <= step]
        later = folders[len(earlier) :]  # of a run that has been resumed from an earlier step
        for folder in (*earlier[:-SAVE_TOTAL_LIMIT], *later):
            shutil.rmtree(folder)

    def folders(self) -> list[Path]:
        """Checkpoint folders, the newest last."""
        found = [
            path
            for path in self.folder.path(self.subfolder).glob("checkpoint-*")
            if path.name.rpartition("-")[2].isdecimal() and not path.is_symlink()
        ]
        return sorted(found, key=_step)

    def remove(self) -> None:
        """Delete all checkpoints: the stage is finished."""
        if self.folder.read_only:
            return
        for folder in self.folders():
            shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # missing, or not empty
            self.folder.path(self.subfolder).rmdir()

    def read(self, which: bool | str, inputs: Mapping[str, Any]) -> Checkpoint | None:
        """The newest intact checkpoint, or the one in folder ``which`` if it belongs to this stage; None without one.

        Raises:
            UserError: it was made from other data, another model or another config (the message names what differs),
                or the requested folder is missing or damaged.
        """
        for folder in reversed(self._candidates(which)):
            if metadata := _read_metadata(folder):
                _require_same_inputs(folder, metadata["inputs"], inputs)
                return _load(folder, metadata)
            logger.warning("%s: damaged; skipped", folder)
        return None

    def _candidates(self, which: bool | str) -> list[Path]:
        if isinstance(which, str) and not self._belongs_to_another_stage(Path(which)):
            metadata = _read_metadata(Path(which))
            if metadata is None:
                raise UserError(f"{which}: not a complete checkpoint; name another, or resume_from_checkpoint=true")
            if metadata["stage"] == self.stage:
                return [Path(which)]
        return self.folders()

    def _belongs_to_another_stage(self, named: Path) -> bool:
        """Whether it is where another stage keeps checkpoints; it is deleted when that stage finishes."""
        others = (folder for stage, folder in FOLDERS.items() if stage != self.stage)
        return any(named.parent.resolve() == self.folder.path(folder).resolve() for folder in others)


def seal(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``checkpoint.json`` with a hash of itself."""
    content = {name: value for name, value in metadata.items() if name != "seal"}
    return content | {"seal": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _load(folder: Path, metadata: dict[str, Any]) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(folder / "state.safetensors")
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder}: not a checkpoint of sealtune ({error}); delete it") from None
    return Checkpoint(metadata["step"], state, metadata["records"], metadata["rest"])


def _read_metadata(folder: Path) -> dict[str, Any] | None:
    """The content of ``checkpoint.json``; None if the checkpoint is damaged."""
    try:
        metadata: dict[str, Any] = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
        intact = (
            hash_file(folder / "state.safetensors") == metadata["sha256"]
            and metadata == seal(metadata)
            and all(isinstance(metadata[name], kind) for name, kind in FIELDS.items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return metadata if intact else None


def _require_same_inputs(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differing = list(_differing(then, json.loads(json.dumps(now, default=to_json_type))))
    if differing:
        raise UserError(
            f"{folder}: was made with another {', '.join(differing)}; use the same, or start from scratch in "
            "another output_dir or with resume_from_checkpoint=false"
        )


def _differing(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of the settings and files that differ, such as ``tune.learning_rate``."""
    for name in sorted({*then, *now}):
        before, after = then.get(name), now.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differing(before, after, f"{prefix}{name}.")
        elif before != after:
            yield prefix + name


class Checkpointer:
    """Decides when a stage saves a checkpoint: every ``save_steps``, and after Ctrl-C or SIGTERM.

    Attributes:
        stop_requested: the signal that this process received; None if it received none.
        stop_signal: the signal that any process received; 0 if none did.
    """

    def __init__(self, stage: str, folder: Folder, inputs: Mapping[str, Any], save_steps: int) -> None:
        self.stage = stage
        self.checkpoints = Checkpoints(folder, stage)
        self.inputs = inputs
        self.save_steps = save_steps
        self.stop_requested: int | None = None
        self.stop_signal = 0
        self._unused: list[Path] = []

    def resume(self, which: bool | str) -> Checkpoint | None:
        """The checkpoint to resume from; None to start from scratch. Raises as ``Checkpoints.read``."""
        if which is False:
            self._unused = self.checkpoints.folders()
            if self._unused:
                advice = f"resume_from_checkpoint=true would resume from {self._unused[-1]}"
                logger.info("%s: starting from scratch; %s", self.stage, advice)
            return None
        checkpoint = self.checkpoints.read(which, self.inputs)
        if checkpoint is None:
            logger.info("%s: no checkpoint to resume from; starting at the first step", self.stage)
        else:
            logger.info("%s: resuming after step %d", self.stage, checkpoint.step)
        return checkpoint

    def should_save(self, step: int, total: int) -> bool:
        """Whether to save after this step. Never after the last step: the results are written next."""
        if step == total:
            return False
        self.stop_signal = distributed.all_reduce_max(self.stop_requested or 0)  # all stop after the same step
        return bool(self.stop_signal) or step % self.save_steps == 0

    def save(self, checkpoint: Checkpoint, total: int) -> None:
        """Write a checkpoint if it has a state. Raises StoppedError after a signal."""
        resumable = bool(checkpoint.state)
        if resumable:
            self._delete_unused()
            self.checkpoints.write(checkpoint, self.inputs)
        if self.stop_signal:
            saved = "a checkpoint was saved; resume with resume_from_checkpoint=true"
            advice = saved if resumable else "nothing to resume"
            message = f"{self.stage}: stopped after step {checkpoint.step} of {total}; {advice}"
            raise StoppedError(message, self.stop_signal)

    def _delete_unused(self) -> None:
        """Delete the checkpoints that this run did not resume from."""
        if not self.checkpoints.folder.read_only:
            for folder in self._unused:
                shutil.rmtree(folder)
        self._unused = []

    @contextmanager
    def stop_on_signals(self) -> Iterator[None]:
        """Stop the stage after the current step on Ctrl-C or SIGTERM; a second Ctrl-C stops it at once.

        A second SIGTERM is ignored: a scheduler signals every process of a job, and a launcher forwards it once more.
        """

        def request_stop(number: int, frame: object) -> None:
            logger.info("%s: stopping after this step; Ctrl-C to stop at once", self.stage)
            self.stop_requested = number
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

        try:
            previous = {number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # outside the main thread, signals are the caller's
            previous = {}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
