"""Rows of a file, of several that a pattern names, of a folder or of a hub dataset, and where each row was read."""

from __future__ import annotations

import glob
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from sealtune.core.config import DatasetConfig
from sealtune.core.errors import UserError
from sealtune.data import arrow_files
from sealtune.data.arrow_files import LocatedRow
from sealtune.data.csv_files import read_csv
from sealtune.data.data_file import COMPRESSIONS, DataFile, file_type
from sealtune.data.dataset_folder import MAX_FILES, is_document, natural_order, split_files
from sealtune.data.json_files import read_json
from sealtune.data.size_limits import Allowance
from sealtune.data.split_names import split_of

logger = logging.getLogger(__name__)

FILE_TYPES: dict[str, Callable[[DataFile], Iterator[LocatedRow]]] = {
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": arrow_files.read_parquet,
    ".arrow": arrow_files.read_arrow,
}
BINARY = frozenset({".parquet", ".arrow"})
"""Types that compress their columns themselves."""
UNREADABLE = frozenset({".zip", ".7z", ".tar", ".tgz", ".rar", ".xlsx", ".xls", ".ods", ".avro", ".orc", ".feather"})
"""Types that may hold rows and are not read."""
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def read_rows(config: DatasetConfig) -> Iterator[LocatedRow]:
    """Rows of a dataset.

    Raises:
        UserError: the source is missing or unreadable, or has no rows; or a row is broken, whose line is named.
    """
    empty = True
    try:
        for located in _open(config):
            empty = False
            yield located
    except OSError as error:
        raise UserError(f"{config.path}: cannot be read: {error.strerror or error}") from None
    if empty:
        raise UserError(f"{config.path}: no rows; the file is empty or has only a header")


def local_files(config: DatasetConfig) -> list[Path] | None:
    """The files that the rows are read from, in order; None if they are not on this machine. Raises UserError."""
    path = expand(config.path)
    if path.is_dir() and arrow_files.is_saved(path):
        return sorted(file for file in path.rglob("*") if file.is_file())
    if path.is_dir():
        return _of_one_type(path, split_files(path, config.split, config.name))
    if path.exists():
        return [path]
    return _of_one_type(path, _matching(path)) if glob.has_magic(str(path)) else None


def expand(path: str) -> Path:
    """The path, with ``~`` as the user's home. Raises UserError if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: no such user; give the whole path") from None


def _open(config: DatasetConfig) -> Iterator[LocatedRow]:
    path = expand(config.path)
    if path.is_dir() and arrow_files.is_saved(path):
        return arrow_files.read_saved(path, config.split)
    files = local_files(config)
    if files is None:
        return _read_hub(config, path)
    allowance = Allowance(path, sum(file.stat().st_size for file in files))
    split = "train" if path.is_dir() else _split_within(files, config.split)
    return (row for file in files for row in _reader(file)(DataFile(file, allowance, split)))


def _read_hub(config: DatasetConfig, path: Path) -> Iterator[LocatedRow]:
    is_file_name = file_type(path) in FILE_TYPES or path.suffix.lower() in COMPRESSIONS.keys() | UNREADABLE
    if is_file_name or not HUB_ID.fullmatch(config.path):
        raise UserError(f"{path}: no such file")
    return arrow_files.read_hub(config)


def _split_within(files: Sequence[Path], split: str) -> str:
    """The split to read within each file: ``train``, unless they are JSON files that may contain several."""
    if all(split_of(file.name) == split for file in files):
        return "train"
    if split != "train" and not all(FILE_TYPES.get(file_type(file)) is read_json for file in files):
        raise UserError(f"{files[0]}: a file of this type has no split {split!r}; remove `split`")
    return split


def _reader(path: Path) -> Callable[[DataFile], Iterator[LocatedRow]]:
    kind, compression = file_type(path), path.suffix.lower()
    if unreadable := {kind, compression} & UNREADABLE:
        raise UserError(f"{path}: {unreadable.pop()} files are not read; unpack or save it as CSV or JSONL")
    if compression in COMPRESSIONS and kind in BINARY:
        raise UserError(f"{path}: {kind} files are compressed already; decompress it first")
    if kind not in FILE_TYPES:
        known = ", ".join(FILE_TYPES)
        example = f"; a compressed file is named as in rows.jsonl{compression}" if compression in COMPRESSIONS else ""
        raise UserError(f"{path}: unknown file type; known: {known}{example}")
    return FILE_TYPES[kind]


def _matching(pattern: Path) -> list[Path]:
    """The files that a pattern matches. Raises UserError if there are none."""
    found = [Path(name) for name in islice(glob.iglob(str(pattern), recursive=True), MAX_FILES + 1)]  # noqa: PTH207
    if len(found) > MAX_FILES:
        raise UserError(f"{pattern}: matches more than {MAX_FILES:,} files; choose fewer")
    files = [path for path in found if path.is_file()]
    if not files:
        hint = f"only folders match; to read their files write {pattern}/*.jsonl" if found else "no file matches"
        raise UserError(f"{pattern}: {hint}")
    return sorted(files, key=natural_order)


def _of_one_type(place: Path, found: Sequence[Path]) -> list[Path]:
    """Those of the files that may hold rows. Raises UserError if their types differ, or there are none."""
    known = FILE_TYPES.keys() | UNREADABLE
    files = [file for file in found if not is_document(file) and {_type_name(file), file.suffix.lower()} & known]
    types = Counter(map(_type_name, files))
    if len(types) > 1:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(types.items()))
        one = (place if place.is_dir() else place.parent) / f"*{min(types)}"
        raise UserError(f"{place}: files of several types ({counts}); name those to read, as in {one}")
    if not files:
        raise UserError(f"{place}: no data files; known types: {', '.join(FILE_TYPES)}")
    return files


def _type_name(path: Path) -> str:
    """The type of a file; both names of JSON lines are one type."""
    return ".jsonl" if file_type(path) == ".ndjson" else file_type(path)
