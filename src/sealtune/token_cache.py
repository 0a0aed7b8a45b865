"""Tokens of a run's rows, kept in its folder: a later stage maps them into memory and does not make them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sealtune import data
from sealtune.records import Drop, Encoded, Sample
from sealtune.store import RunFolder

ARRAYS = ("tokens", "mask", "bounds")

Tokenised = tuple[Encoded, list[Drop]]


class TokenCache:
    """A folder for each set of rows, ``tokens/<prefix><name>``; what no longer fits is made anew."""

    def __init__(self, folder: RunFolder, prefix: str = "") -> None:
        self.folder = folder
        self.prefix = prefix

    def get(self, name: str, about: str, samples: Sequence[Sample], make: Callable[[], Tokenised]) -> Tokenised:
        """The tokens of ``samples``: kept ones where they were made of the same rows, and ``about`` told the same."""
        key, place = _key(about, samples), f"tokens/{self.prefix}{name}"
        found = self._read(place, key, samples)
        if found is None:
            found = make()
            with suppress(OSError):  # no room for them, or no permission: they are only made again
                self._write(place, key, samples, *found)
        return found

    def _read(self, place: str, key: str, samples: Sequence[Sample]) -> Tokenised | None:
        folder = self.folder.path(place)
        try:
            about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
            if about["key"] != key:
                return None
            unusable = {int(i): (str(reason), str(detail)) for i, reason, detail in about["drops"]}
            # "c": pages are read as they are needed, and nothing that is written goes back to the file.
            tokens, mask, bounds = (np.load(folder / f"{array}.npy", mmap_mode="c") for array in ARRAYS)
            drops = [_drop(samples[i], *fault) for i, fault in unusable.items()]
        except Exception:  # not there, or not as this version writes it: whatever numpy makes of it, they are made anew
            return None
        if not _fit_together(tokens, mask, bounds):
            return None
        kept = [sample for i, sample in enumerate(samples) if i not in unusable]
        ids, sources = tuple(sample.id for sample in kept), tuple(sample.source for sample in kept)
        return None if len(bounds) != len(ids) + 1 else (Encoded(ids, sources, tokens, mask, bounds), drops)

    def _write(self, place: str, key: str, samples: Sequence[Sample], encoded: Encoded, drops: Sequence[Drop]) -> None:
        index = {sample.id: i for i, sample in enumerate(samples)}
        about = {"key": key, "drops": [(index[drop.id], drop.reason, drop.detail) for drop in drops]}
        with self.folder.whole_folder(place) as scratch:
            for array in ARRAYS:
                np.save(scratch / f"{array}.npy", getattr(encoded, array), allow_pickle=False)
            (scratch / "about.json").write_text(json.dumps(about), encoding="utf-8")


def _fit_together(tokens: Any, mask: Any, bounds: Any) -> bool:
    """Whether the three are arrays of rows laid end to end."""
    kinds = [(array.dtype, array.ndim) for array in (tokens, mask, bounds)]
    if kinds != [(np.int32, 1), (np.bool_, 1), (np.int64, 1)] or len(tokens) != len(mask) or not len(bounds):
        return False
    return bool(bounds[0] == 0 and bounds[-1] == len(tokens) and (np.diff(bounds) >= 0).all())


def _key(about: str, samples: Sequence[Sample]) -> str:
    digest = hashlib.blake2b(f"{_code()} {about}".encode(), digest_size=16)
    for sample in samples:
        turns = [(message.role, message.content) for message in sample.messages]
        digest.update(json.dumps([sample.id, turns]).encode("ascii"))
    return digest.hexdigest()


@cache
def _code() -> str:
    """A hash of the code that makes tokens: another version may make others."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(data.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _drop(sample: Sample, reason: str, detail: str) -> Drop:
    return Drop(sample.id, sample.source, reason, detail, sample.row, sample.position)
