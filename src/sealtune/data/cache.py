"""Tokens of a run's rows, kept in its folder: a later stage maps them into memory and does not make them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numpy.lib import format as npy

from sealtune import data
from sealtune.core.files import Folder, hash_file
from sealtune.core.string_array import IntArray, StringArray
from sealtune.core.types import Drop
from sealtune.data.encode import Part
from sealtune.data.encoded import Encoded
from sealtune.data.formats import UnusableRow
from sealtune.data.row_store import Rows, open_rows
from sealtune.data.unused import Unlearnable

ARRAYS = {"tokens": np.int32, "mask": np.bool_, "bounds": np.int64}

FAULTS = pa.schema({"place": pa.int64(), "reason": pa.string(), "detail": pa.string()})
"""Samples without tokens: their places among the samples, and why."""

Tokenised = tuple[Encoded, Collection[Drop]]
Made = Iterable[Sequence[Part | UnusableRow]]
"""What the tokenizer makes of the samples, in their order, some of them at a time."""


class TokenCache:
    """A folder for each set of rows, ``tokens/<prefix><name>``; what no longer fits is made anew."""

    def __init__(self, folder: Folder, prefix: str = "") -> None:
        self.folder = folder
        self.prefix = prefix

    def get(self, name: str, about: str, rows: Rows, make: Callable[[], Made]) -> Tokenised | None:
        """The tokens of ``rows``: kept ones where they were made of the same rows, and ``about`` told the same.

        None where they cannot be kept: there is no room for them, or no permission.
        """
        key, place = f"{code()} {about} {rows.digest}", f"tokens/{self.prefix}{name}"
        found = self._read(place, key, rows)
        if found is None:
            with suppress(OSError):
                self._write(place, key, make())
                found = self._read(place, key, rows)
        return found

    def _read(self, place: str, key: str, rows: Rows) -> Tokenised | None:
        folder = self.folder.path(place)
        try:
            about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
            if about["key"] != key:
                return None
            # "c": pages are read as they are needed, and nothing that is written goes back to the file.
            tokens, mask, bounds = (np.load(folder / f"{array}.npy", mmap_mode="c") for array in ARRAYS)
            drops, kept = _read_faults(folder / "faults.arrow", rows)
        except Exception:  # not there, or not as this version writes it: whatever numpy makes of it, they are made anew
            return None
        if not _fit_together(tokens, mask, bounds):
            return None
        ids, sources = rows.samples.ids, rows.samples.sources
        if drops:
            ids, sources = ids.take(kept), sources.take(kept)
        return None if len(bounds) != len(ids) + 1 else (Encoded(ids, sources, tokens, mask, bounds), drops)

    def _write(self, place: str, key: str, made: Made) -> None:
        """Write the tokens as they come: they may be more than memory holds."""
        with self.folder.atomic_folder(place) as scratch, ExitStack() as files:
            faults = files.enter_context(pa.ipc.new_file(str(scratch / "faults.arrow"), FAULTS))
            arrays = [files.enter_context(_growing(scratch / f"{name}.npy", t)) for name, t in ARRAYS.items()]
            tokens, mask, bounds = arrays
            count, end = 0, 0
            bounds(np.zeros(1, np.int64))
            for batch in made:
                parts = [tried for tried in batch if not isinstance(tried, UnusableRow)]
                bad = [(count + i, t.reason, t.detail) for i, t in enumerate(batch) if isinstance(t, UnusableRow)]
                if bad:
                    faults.write_batch(pa.record_batch(list(zip(*bad, strict=True)), schema=FAULTS))
                count += len(batch)
                if parts:
                    tokens(np.concatenate([part[0] for part in parts]))
                    mask(np.concatenate([part[1] for part in parts]))
                    ends = end + np.cumsum([len(part[0]) for part in parts])
                    bounds(ends)
                    end = int(ends[-1])
            (scratch / "about.json").write_text(json.dumps({"key": key}), encoding="utf-8")


def _read_faults(path: Path, rows: Rows) -> tuple[Unlearnable, IntArray]:
    """The samples without tokens, and the places of those with some. Raises ValueError where they make no sense."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    table.validate(full=True)
    places = np.asarray(table["place"], np.int64)
    if table.schema != FAULTS or any(column.null_count for column in table.columns):
        raise ValueError("not a table of faults")
    mine = np.ones(len(rows.samples), np.bool_)
    mine[places] = False  # raises IndexError
    if (places < 0).any() or (np.diff(places) <= 0).any():
        raise ValueError("places that do not rise")
    reasons, details = (StringArray.from_column(table[name]) for name in ("reason", "detail"))
    return Unlearnable(rows.samples, places, reasons, details), np.flatnonzero(mine)


@contextmanager
def _growing(path: Path, dtype: npt.DTypeLike) -> Iterator[Callable[[npt.NDArray[Any]], None]]:
    """An .npy file of one dimension that what it is called with is added to; its length is entered at the end."""
    length = 0

    def write_header(file: BinaryIO) -> None:
        about = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (length,)}
        npy.write_array_header_1_0(file, about)  # numpy leaves room for a longer shape, so that it can be replaced

    with path.open("wb") as file:
        write_header(file)

        def add(values: npt.NDArray[Any]) -> None:
            nonlocal length
            length += len(values)
            file.write(np.ascontiguousarray(values, dtype).data)

        yield add
        file.seek(0)
        write_header(file)


def _fit_together(tokens: Any, mask: Any, bounds: Any) -> bool:
    """Whether the three are arrays of rows laid end to end."""
    kinds = [(array.dtype, array.ndim) for array in (tokens, mask, bounds)]
    if kinds != [(np.int32, 1), (np.bool_, 1), (np.int64, 1)] or len(tokens) != len(mask) or not len(bounds):
        return False
    return bool(bounds[0] == 0 and bounds[-1] == len(tokens) and (np.diff(bounds) >= 0).all())


@cache
def code() -> str:
    """A hash of the code that makes tokens: another version may make others."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(data.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class RowCache:
    """A folder for each set of rows, ``rows/<name>``; what no longer fits is read anew."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def get(self, name: str, about: str | None, load: Callable[[Path], Rows]) -> Rows:
        """Kept rows where ``about`` told the same of them; else what ``load`` writes. None: they may have changed."""
        key, place = f"{code()} {about}", f"rows/{name}"
        found = self._read(place, key) if about is not None else None
        if found is None:
            with self.folder.atomic_folder(place) as scratch:
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
