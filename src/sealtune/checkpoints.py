"""Rankings between two steps, on disk: what a stopped run goes on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sealtune.records import UserError
from sealtune.store import RunFolder, hash_file, plain

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINTS_KEPT = 2


class Checkpoint(NamedTuple):
    """A ranking between two steps: its tensors, and the log so far."""

    step: int
    state: dict[str, Tensor]
    records: list[dict[str, Any]]


class Checkpoints:
    """The checkpoints of a run, ``rank/checkpoint-<step>/``."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def write(
        self, step: int, state: dict[str, Tensor], inputs: Mapping[str, Any], records: list[dict[str, Any]]
    ) -> None:
        """Write rank/checkpoint-<step>/: state, log so far, and what it was made from; the last two are kept."""
        from safetensors.torch import save_file

        with self.folder.whole_folder(f"rank/checkpoint-{step}") as scratch:
            save_file(
                {name: value.detach().cpu().contiguous() for name, value in state.items()},
                scratch / "state.safetensors",
            )
            digest = hash_file(scratch / "state.safetensors")
            about = {"step": step, "sha256": digest, "inputs": inputs, "records": records}
            (scratch / "checkpoint.json").write_text(json.dumps(about, indent=2, default=plain), encoding="utf-8")
        for old in self.folders()[:-CHECKPOINTS_KEPT]:
            shutil.rmtree(old)

    def folders(self) -> list[Path]:
        """Checkpoint folders, the newest last."""
        found = [
            p
            for p in self.folder.path("rank").glob("checkpoint-*")
            if p.name.rpartition("-")[2].isdecimal() and not p.is_symlink()
        ]
        return sorted(found, key=lambda p: int(p.name.rpartition("-")[2]))

    def remove(self) -> None:
        """Remove them all: the ranking is finished."""
        for folder in self.folders():
            shutil.rmtree(folder)

    def read(self, which: bool | str, inputs: Mapping[str, Any]) -> Checkpoint | None:
        """The newest whole checkpoint (or the folder ``which``); None where there is none.

        Raises:
            UserError: it was made from other data, another model or another config (what differs is named), or the
                folder asked for is missing or damaged.
        """
        named = isinstance(which, str)
        for folder in reversed([Path(which)] if isinstance(which, str) else self.folders()):
            about = _read_about(folder)
            if about is None:
                if named:
                    raise UserError(f"{folder}: not a whole checkpoint; name another, or resume_from_checkpoint=true")
                continue
            _require_same_inputs(folder, about["inputs"], inputs)
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                return Checkpoint(about["step"], load_file(folder / "state.safetensors"), about["records"])
            except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
                raise UserError(f"{folder}: not a checkpoint of sealtune ({error}); delete it") from None
        return None


def _read_about(folder: Path) -> dict[str, Any] | None:
    """What a checkpoint says of itself; None where it is damaged."""
    try:
        about: dict[str, Any] = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
        whole = hash_file(folder / "state.safetensors") == about["sha256"]
        kinds = (isinstance(about["step"], int), isinstance(about["inputs"], dict), isinstance(about["records"], list))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return about if whole and all(kinds) else None


def _require_same_inputs(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    current = json.loads(json.dumps(now, default=plain))
    differing = [name for name in sorted({*then, *current}) if then.get(name) != current.get(name)]
    if differing:
        raise UserError(
            f"{folder}: was made with another {', '.join(differing)}; give what it was made with, or start again in "
            "another output_dir or with resume_from_checkpoint=false"
        )
