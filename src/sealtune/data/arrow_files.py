"""Rows of Parquet and Arrow files, and of datasets that the ``datasets`` library saved or downloads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sealtune.core.config import DatasetConfig
from sealtune.core.errors import UserError
from sealtune.data.columns import make_to_rows
from sealtune.data.data_file import DataFile
from sealtune.data.file_signatures import HEAD_BYTES, require_content
from sealtune.data.size_limits import Allowance, claimed_bytes

BATCH_ROWS = 1024
_FILE_MAGIC, _FILE_HEADER_BYTES = b"ARROW1", 8

LocatedRow = tuple[str, dict[str, Any]]
"""A place such as ``candidates.jsonl, line 7``, and the row that was read there."""


def read_parquet(file: DataFile) -> Iterator[LocatedRow]:
    """Rows of a Parquet file. Raises UserError."""
    import pyarrow.parquet

    _require_magic(file, b"PAR1")
    with _as_user_error(file.path), pyarrow.parquet.ParquetFile(file.path) as table:
        groups = map(table.metadata.row_group, range(table.metadata.num_row_groups))
        file.allowance.require(sum(group.total_byte_size for group in groups))
        yield from _locate(table.iter_batches(batch_size=BATCH_ROWS), file.path, file.allowance)


def read_arrow(file: DataFile) -> Iterator[LocatedRow]:
    """Rows of an Arrow IPC file or stream. Raises UserError."""
    import pyarrow as pa

    _require_magic(file, _FILE_MAGIC, b"\xff\xff\xff\xff")
    with _as_user_error(file.path), pa.OSFile(str(file.path)) as content:
        file.allowance.require(claimed_bytes(_messages(content)))
        _seek_stream(content)
        yield from _locate(pa.ipc.open_stream(content), file.path, file.allowance)


def _require_magic(file: DataFile, *expected: bytes) -> None:
    with file.path.open("rb") as content:
        require_content(file.path, content.read(HEAD_BYTES), *expected)


def is_saved(path: Path) -> bool:
    """Whether ``save_to_disk`` wrote this folder."""
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def read_saved(path: Path, split: str) -> Iterator[LocatedRow]:
    """Rows of a folder that ``save_to_disk`` wrote. Raises UserError."""
    _require_files_inside(path)
    allowance = _folder_allowance(path)
    import datasets

    try:
        table = datasets.load_from_disk(str(path))
    except Exception as error:  # `datasets` raises many kinds
        raise UserError(f"{path}: cannot be read: {_first_line(error)}") from None
    with _as_user_error(path):
        if isinstance(table, datasets.DatasetDict):
            if split not in table:
                raise UserError(f"{path}: no split {split!r}; it has {', '.join(table)}")
            table = table[split]
        yield from _locate(_batches(table), path, allowance)


def read_hub(config: DatasetConfig) -> Iterator[LocatedRow]:
    """Rows of one split of a hub dataset. Raises UserError."""
    import datasets

    try:
        table = datasets.load_dataset(config.path, config.name, split=config.split)
    except Exception as error:  # the hub, the network and the loaders raise many kinds
        message = f"{config.path}: no such file, and it cannot be loaded as a hub dataset: {_first_line(error)}"
        raise UserError(message) from None
    with _as_user_error(config.path):
        yield from _locate(_batches(table), config.path)


def _messages(content: Any) -> Iterable[Any]:
    import pyarrow as pa

    _seek_stream(content)
    messages: Iterable[Any] = pa.ipc.MessageReader.open_stream(content)
    return messages


def _seek_stream(content: Any) -> None:
    """Go to the first message. An IPC file is a stream between a header and a footer, which is not needed."""
    content.seek(0)
    is_file = content.read(len(_FILE_MAGIC)) == _FILE_MAGIC
    content.seek(_FILE_HEADER_BYTES if is_file else 0)


def _batches(table: Any) -> Iterator[Any]:
    """The dataset as Arrow tables, so that images and audio are not decoded."""
    return iter(table.with_format("arrow").iter(batch_size=BATCH_ROWS))


def _require_files_inside(path: Path) -> None:
    """Raise UserError if a JSON file of the folder names files outside the folder."""
    for listing in (*path.glob("*.json"), *path.glob("*/*.json")):
        for name in _listed_names(listing):
            if not isinstance(name, str) or Path(name).name != name:
                raise UserError(f"{listing}: names {name!r}, which is not a file of this folder")


def _listed_names(listing: Path) -> list[Any]:
    """The file and split names in ``state.json`` or ``dataset_dict.json``. Raises UserError."""
    try:
        content = json.loads(listing.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{listing}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{listing}: not an object, so save_to_disk did not write it")
    files = content.get("_data_files") or []
    names = [file.get("filename") for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    splits = content.get("splits") if listing.name == "dataset_dict.json" else []
    return [*names, *(splits if isinstance(splits, list) else [])]


def _folder_allowance(path: Path) -> Allowance:
    """One allowance for all Arrow files of a folder. Raises UserError if together they claim more than it."""
    import pyarrow as pa

    files = [file for file in (*path.glob("*.arrow"), *path.glob("*/*.arrow")) if file.stat().st_size]
    allowance = Allowance(path, sum(file.stat().st_size for file in files))
    claimed = 0
    for file in files:
        with _as_user_error(file), pa.memory_map(str(file)) as content:
            claimed += claimed_bytes(_messages(content))
    allowance.require(claimed)
    return allowance


def _locate(batches: Iterable[Any], path: Path | str, allowance: Allowance | None = None) -> Iterator[LocatedRow]:
    valid = map(_validate, batches)
    to_rows = make_to_rows(path)
    rows = (row for batch in (allowance.watch(valid) if allowance else valid) for row in to_rows(batch))
    return ((f"{path}, row {number}", row) for number, row in enumerate(rows, 1))


def _validate(batch: Any) -> Any:
    """The batch, after a full check: the offsets of a damaged file may point anywhere."""
    batch.validate(full=True)
    return batch


@contextmanager
def _as_user_error(path: Path | str) -> Iterator[None]:
    """Turn what Arrow raises for a damaged file into a UserError of one line."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, ValueError, OverflowError, LookupError, TypeError, AttributeError) as error:
        # Python's own errors come from values that Python lacks, such as a date past year 9999 or an unknown time zone.
        raise UserError(f"{path}: cannot be read: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
