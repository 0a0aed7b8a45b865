"""Hashes of data sets, which tell whether a stage must run again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sealtune.core.config import DatasetConfig
from sealtune.core.files import hash_file
from sealtune.data.sources import expand, local_files


def data_fingerprint(config: DatasetConfig) -> dict[str, Any]:
    """The settings of a data set, with a hash of its rows if they are on this machine. Raises UserError."""
    if config.rows is not None:
        sha256 = hashlib.sha256(repr(config.rows).encode("utf-8", "replace")).hexdigest()
        return {**config.model_dump(), "sha256": sha256}
    files = local_files(config)
    return {**config.model_dump(), "sha256": None if files is None else _hash_files(expand(config.path), files)}


def path_fingerprint(path: str) -> str | None:
    """SHA-256 of a file, or of all files that a folder or pattern holds; None if they are not on this machine."""
    place = expand(path)
    if place.is_dir():
        return _hash_files(place, sorted(file for file in place.rglob("*") if file.is_file()))
    files = local_files(DatasetConfig(path=path))
    return None if files is None else _hash_files(place, files)


def _hash_files(place: Path, files: Sequence[Path]) -> str:
    """One hash of these files, in order; of a folder, also of their names in it."""
    if list(files) == [place]:
        return hash_file(place)
    names = [str(file.relative_to(place) if place.is_dir() else file) for file in files]
    listing = [(name, hash_file(file)) for name, file in zip(names, files, strict=True)]
    return hashlib.sha256(repr(listing).encode()).hexdigest()
