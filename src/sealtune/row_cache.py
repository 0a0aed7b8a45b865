"""Rows of a run, kept in its folder: a later stage maps them into memory and does not read their files again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from sealtune.data.row_store import Rows, open_rows
from sealtune.store import RunFolder, hash_file
from sealtune.token_cache import code


class RowCache:
    """A folder for each set of rows, ``rows/<name>``; what no longer fits is read anew."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def get(self, name: str, about: str | None, load: Callable[[Path], Rows]) -> Rows:
        """Kept rows where ``about`` told the same of them; else what ``load`` writes. None: they may have changed."""
        key, place = f"{code()} {about}", f"rows/{name}"
        found = self._read(place, key) if about is not None else None
        if found is None:
            with self.folder.whole_folder(place) as scratch:
                found = load(scratch)
                about_them = {"key": key, "sha256": _hashes(scratch)}
                (scratch / "about.json").write_text(json.dumps(about_them), encoding="utf-8")
        return found

    def _read(self, place: str, key: str) -> Rows | None:
        folder = self.folder.path(place)
        try:
            about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
            return open_rows(folder) if about == {"key": key, "sha256": _hashes(folder)} else None
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            RecursionError,
        ):  # not there, or not as it was written
            return None


def _hashes(folder: Path) -> list[str]:
    return [hash_file(folder / f"{name}.arrow") for name in ("rows", "index")]
