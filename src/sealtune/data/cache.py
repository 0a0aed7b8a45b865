"""Caches in the run folder, so that later stages load rows and tokens instead of making them again.

An entry is a folder with its data and ``key.json``. It is reused only if the key is the same: the code, the fingerprint
that the caller passes, and what the data depends on. Anything else, damage included, replaces the entry.
"""

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
from sealtune.data.encoded import Encoded, TokensAndMask
from sealtune.data.row_store import Rows, UntokenizedRows, open_rows
from sealtune.data.turns import UnusableRow

KEY_FILE = "key.json"
ARRAYS = {"tokens": np.int32, "mask": np.bool_, "bounds": np.int64}

DROPS = pa.schema({"index": pa.int64(), "reason": pa.string(), "detail": pa.string()})
"""Samples without tokens: their indices among the samples, and why."""

Tokenized = tuple[Encoded, Collection[Drop]]
TokenBatches = Iterable[Sequence[TokensAndMask | UnusableRow]]
"""The tokenizer's results for all samples in order, in batches."""


@cache
def code() -> str:
    """A hash of this package's code: another version may give other rows or tokens."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(data.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class RowCache:
    """Loaded rows, in ``rows/<name>``."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def get(self, name: str, fingerprint: str | None, load: Callable[[Path], Rows]) -> Rows:
        """The cached rows, or those that ``load`` writes to a folder.

        Args:
            name: name of the entry.
            fingerprint: of the datasets; None if they may have changed, so that they are always loaded.
            load: writes the rows.
        """
        key, entry = f"{code()} {fingerprint}", f"rows/{name}"
        rows = self._read(entry, key) if fingerprint is not None else None
        if rows is None:
            with self.folder.atomic_folder(entry) as scratch:
                rows = load(scratch)
                _write_key(scratch, {"key": key, "sha256": _row_hashes(scratch)})
        return rows

    def _read(self, entry: str, key: str) -> Rows | None:
        folder = self.folder.path(entry)
        try:
            is_current = _read_key(folder) == {"key": key, "sha256": _row_hashes(folder)}
            return open_rows(folder) if is_current else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # missing or damaged
            return None


class TokenCache:
    """Tokens of loaded rows, in ``tokens/<prefix><name>``."""

    def __init__(self, folder: Folder, prefix: str = "") -> None:
        self.folder = folder
        self.prefix = prefix

    def get(self, name: str, fingerprint: str, rows: Rows, tokenize: Callable[[], TokenBatches]) -> Tokenized | None:
        """The cached tokens of ``rows``, or those that ``tokenize`` yields.

        Args:
            name: name of the entry.
            fingerprint: of the tokenizer and its settings.
            rows: the rows.
            tokenize: makes their tokens.

        Returns:
            The tokens and the rows without any; None if the entry cannot be written (no space, no permission).
        """
        key, entry = f"{code()} {fingerprint} {rows.digest}", f"tokens/{self.prefix}{name}"
        tokenized = self._read(entry, key, rows)
        if tokenized is None:
            with suppress(OSError):
                self._write(entry, key, tokenize())
                tokenized = self._read(entry, key, rows)
        return tokenized

    def _read(self, entry: str, key: str, rows: Rows) -> Tokenized | None:
        folder = self.folder.path(entry)
        try:
            if _read_key(folder)["key"] != key:
                return None
            # "c": pages are loaded on access, and writes to the arrays do not reach the file.
            tokens, mask, bounds = (np.load(folder / f"{array}.npy", mmap_mode="c") for array in ARRAYS)
            drops, kept = _read_drops(folder / "drops.arrow", rows)
        except Exception:  # missing or damaged; numpy raises many kinds
            return None
        if not _are_consistent(tokens, mask, bounds):
            return None
        ids, sources = rows.samples.ids, rows.samples.sources
        if drops:
            ids, sources = ids.take(kept), sources.take(kept)
        return None if len(bounds) != len(ids) + 1 else (Encoded(ids, sources, tokens, mask, bounds), drops)

    def _write(self, entry: str, key: str, batches: TokenBatches) -> None:
        """Write the tokens batch by batch: all together may exceed the memory."""
        with self.folder.atomic_folder(entry) as scratch:
            with ExitStack() as files:
                writer = _TokenWriter(scratch, files)
                for batch in batches:
                    writer.add(batch)
            _write_key(scratch, {"key": key})


class _TokenWriter:
    """Writes the files of an entry of ``TokenCache``."""

    def __init__(self, folder: Path, files: ExitStack) -> None:
        self.drops = files.enter_context(pa.ipc.new_file(str(folder / "drops.arrow"), DROPS))
        arrays = (files.enter_context(_appending(folder / f"{name}.npy", dtype)) for name, dtype in ARRAYS.items())
        self.append_tokens, self.append_mask, self.append_bounds = arrays
        self.append_bounds(np.zeros(1, np.int64))
        self.samples = self.tokens = 0

    def add(self, batch: Sequence[TokensAndMask | UnusableRow]) -> None:
        """Write the next batch."""
        dropped = [(self.samples + i, r.reason, r.detail) for i, r in enumerate(batch) if isinstance(r, UnusableRow)]
        if dropped:
            self.drops.write_batch(pa.record_batch(list(zip(*dropped, strict=True)), schema=DROPS))
        self.samples += len(batch)
        kept = [result for result in batch if not isinstance(result, UnusableRow)]
        if kept:
            bounds = self.tokens + np.cumsum([len(tokens) for tokens, _ in kept])
            self.append_tokens(np.concatenate([tokens for tokens, _ in kept]))
            self.append_mask(np.concatenate([mask for _, mask in kept]))
            self.append_bounds(bounds)
            self.tokens = int(bounds[-1])


def _read_drops(path: Path, rows: Rows) -> tuple[UntokenizedRows, IntArray]:
    """The samples without tokens, and the indices of all others. Raises ValueError or IndexError if damaged."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    table.validate(full=True)
    indices = np.asarray(table["index"], np.int64)
    if table.schema != DROPS or any(column.null_count for column in table.columns):
        raise ValueError("not a table of drops")
    kept = np.ones(len(rows.samples), np.bool_)
    kept[indices] = False  # raises IndexError
    if (indices < 0).any() or (np.diff(indices) <= 0).any():
        raise ValueError("the indices do not ascend")
    reasons, details = (StringArray.from_column(table[name]) for name in ("reason", "detail"))
    return UntokenizedRows(rows.samples, indices, reasons, details), np.flatnonzero(kept)


@contextmanager
def _appending(path: Path, dtype: npt.DTypeLike) -> Iterator[Callable[[npt.NDArray[Any]], None]]:
    """A function that appends to a one-dimensional .npy file; its length is written at the end."""
    length = 0

    def write_header(file: BinaryIO) -> None:
        header = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (length,)}
        npy.write_array_header_1_0(file, header)  # numpy pads the header, so a longer shape fits later

    with path.open("wb") as file:
        write_header(file)

        def append(values: npt.NDArray[Any]) -> None:
            nonlocal length
            length += len(values)
            file.write(np.ascontiguousarray(values, dtype).data)

        yield append
        file.seek(0)
        write_header(file)


def _are_consistent(tokens: Any, mask: Any, bounds: Any) -> bool:
    """Whether the three arrays are those of concatenated rows."""
    kinds = [(array.dtype, array.ndim) for array in (tokens, mask, bounds)]
    if kinds != [(np.int32, 1), (np.bool_, 1), (np.int64, 1)] or len(tokens) != len(mask) or not len(bounds):
        return False
    return bool(bounds[0] == 0 and bounds[-1] == len(tokens) and (np.diff(bounds) >= 0).all())


def _write_key(folder: Path, content: dict[str, Any]) -> None:
    (folder / KEY_FILE).write_text(json.dumps(content), encoding="utf-8")


def _read_key(folder: Path) -> Any:
    return json.loads((folder / KEY_FILE).read_text(encoding="utf-8"))


def _row_hashes(folder: Path) -> list[str]:
    return [hash_file(folder / f"{name}.arrow") for name in ("rows", "index")]
