"""Rows of Parquet and Arrow files and of data sets kept by the ``datasets`` library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sealtune.core.config import DatasetConfig
from sealtune.core.errors import UserError
from sealtune.data.size_limits import Allowance, claimed_by_arrow

BATCH_ROWS = 1024


def read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a Parquet file, each with its place. Raises UserError."""
    import pyarrow.parquet

    allowance = Allowance(path, path.stat().st_size)
    with _faults(path), pyarrow.parquet.ParquetFile(path) as table:
        groups = map(table.metadata.row_group, range(table.metadata.num_row_groups))
        allowance.require(sum(group.total_byte_size for group in groups))
        yield from _number(table.iter_batches(batch_size=BATCH_ROWS), path, allowance)


def read_arrow(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of an Arrow file of either kind, each with its place. Raises UserError."""
    import pyarrow as pa

    allowance = Allowance(path, path.stat().st_size)
    with _faults(path), pa.OSFile(str(path)) as content:
        allowance.require(claimed_by_arrow(content))
        content.seek(0)
        try:
            batches: Iterable[Any] = pa.ipc.open_stream(content)
        except pa.ArrowInvalid:  # not the streaming kind that `datasets` writes
            table = pa.ipc.open_file(content)
            batches = map(table.get_batch, range(table.num_record_batches))
        yield from _number(batches, path, allowance)


def read_saved(path: Path, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a folder that ``save_to_disk`` wrote, each with its place. Raises UserError."""
    if not any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        raise UserError(f"{path}: a folder, but none that save_to_disk wrote; name one of its files")
    _require_inside(path)
    allowance = _allowance_of(path)
    import datasets

    try:
        table = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever it trips over, the user reads one line
        raise UserError(f"{path}: cannot be read: {_reason(error)}") from None
    with _faults(path):
        if isinstance(table, datasets.DatasetDict):
            if split not in table:
                raise UserError(f"{path}: no split {split!r}; it has {', '.join(table)}")
            table = table[split]
        yield from _number(_batches(table), path, allowance)


def read_hub(config: DatasetConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of one split of a hub data set, each with its place. Raises UserError."""
    import datasets

    try:
        table = datasets.load_dataset(config.path, config.name, split=config.split)
    except Exception as error:  # whatever the hub, the network or a loader raises, the user reads one line
        told = f"{config.path}: no such file, and as a hub data set it cannot be loaded: {_reason(error)}"
        raise UserError(told) from None
    with _faults(config.path):
        yield from _number(_batches(table), config.path)


def _batches(table: Any) -> Iterator[Any]:
    """Tables of a data set as stored: images and audio stay undecoded."""
    return iter(table.with_format("arrow").iter(batch_size=BATCH_ROWS))


def _require_inside(path: Path) -> None:
    """Raise UserError where the folder's own lists name files outside it."""
    for listing in (*path.glob("*.json"), *path.glob("*/*.json")):
        try:
            content = json.loads(listing.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{listing}: not valid JSON ({error})") from None
        if not isinstance(content, dict):
            raise UserError(f"{listing}: not an object, so none that save_to_disk wrote")
        files = content.get("_data_files") or []
        names = [file.get("filename") for file in files if isinstance(file, dict)] if isinstance(files, list) else []
        splits = content.get("splits") if listing.name == "dataset_dict.json" else []
        for name in [*names, *(splits if isinstance(splits, list) else [])]:
            if not isinstance(name, str) or Path(name).name != name:
                raise UserError(f"{listing}: names {name!r}, which is no file of this folder")


def _allowance_of(path: Path) -> Allowance:
    """Of all Arrow files of a folder together. Raises UserError where they say that they hold more than that."""
    import pyarrow as pa

    files = [file for file in (*path.glob("*.arrow"), *path.glob("*/*.arrow")) if file.stat().st_size]
    allowance = Allowance(path, sum(file.stat().st_size for file in files))
    claimed = 0
    for file in files:
        with _faults(file), pa.memory_map(str(file)) as content:
            claimed += claimed_by_arrow(content)
    allowance.require(claimed)
    return allowance


def _number(
    batches: Iterable[Any], path: Path | str, allowance: Allowance | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    whole = map(_whole, batches)
    rows = (row for batch in (allowance.watch(whole) if allowance else whole) for row in batch.to_pylist())
    return ((f"{path}, row {number}", row) for number, row in enumerate(rows, 1))


def _whole(batch: Any) -> Any:
    """The batch, once Arrow has looked at every value: offsets of a broken file may point anywhere."""
    batch.validate(full=True)
    return batch


@contextmanager
def _faults(path: Path | str) -> Iterator[None]:
    """What Arrow says of a broken file, as a UserError of one line."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, ValueError, OverflowError, LookupError, TypeError, AttributeError) as error:
        # Arrow's own faults, and Python's: a date past its end, a time zone that does not exist, a list that is none.
        raise UserError(f"{path}: cannot be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """The first line of what an error says."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
