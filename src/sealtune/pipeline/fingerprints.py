"""Hashes of data sets, which tell whether a stage must run again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from sealtune.core.config import DatasetConfig
from sealtune.core.files import hash_file


def data_fingerprint(config: DatasetConfig) -> dict[str, Any]:
    """The settings of a data set, with a hash of its rows if they are on this machine."""
    if config.rows is None:
        return {**config.model_dump(), "sha256": path_fingerprint(config.path)}
    return {**config.model_dump(), "sha256": hashlib.sha256(repr(config.rows).encode("utf-8", "replace")).hexdigest()}


def path_fingerprint(path: str) -> str | None:
    """SHA-256 of a file, or of all files in a folder; None if the path is not on this machine."""
    place = Path(path)
    if place.is_file():
        return hash_file(place)
    if not place.is_dir():
        return None
    listing = [(str(p.relative_to(place)), hash_file(p)) for p in sorted(place.rglob("*")) if p.is_file()]
    return hashlib.sha256(repr(listing).encode()).hexdigest()
