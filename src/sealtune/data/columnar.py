"""Rows of Parquet and Arrow files and of data sets kept by the ``datasets`` library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sealtune.config import DatasetConfig
from sealtune.records import UserError

BATCH_ROWS = 1024


def read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a Parquet file, each with its place. Raises UserError."""
    import pyarrow.parquet

    with _faults(path), pyarrow.parquet.ParquetFile(path) as table:
        yield from _number(table.iter_batches(batch_size=BATCH_ROWS), path)


def read_arrow(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of an Arrow file of either kind, each with its place. Raises UserError."""
    import pyarrow as pa

    with _faults(path), pa.OSFile(str(path)) as content:
        try:
            batches: Iterable[Any] = pa.ipc.open_stream(content)
        except pa.ArrowInvalid:  # not the streaming kind that `datasets` writes
            table = pa.ipc.open_file(content)
            batches = map(table.get_batch, range(table.num_record_batches))
        yield from _number(batches, path)


def read_saved(path: Path, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a folder that ``save_to_disk`` wrote, each with its place. Raises UserError."""
    if not any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        raise UserError(f"{path}: a folder, but none that save_to_disk wrote; name one of its files")
    import datasets

    with _faults(path):
        table = datasets.load_from_disk(str(path))
        if isinstance(table, datasets.DatasetDict):
            if split not in table:
                raise UserError(f"{path}: no split {split!r}; it has {', '.join(table)}")
            table = table[split]
        yield from _number(_batches(table), path)


def read_hub(config: DatasetConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of one split of a hub data set, each with its place. Raises UserError."""
    import datasets

    try:
        table = datasets.load_dataset(config.path, config.name, split=config.split)
    except Exception as error:  # whatever the hub, the network or a loader raises, the user reads one line
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(f"{config.path}: no such file, and as a hub data set it cannot be loaded: {reason}") from None
    with _faults(config.path):
        yield from _number(_batches(table), config.path)


def _batches(table: Any) -> Iterator[Any]:
    """Tables of a data set as stored: images and audio stay undecoded."""
    return iter(table.with_format("arrow").iter(batch_size=BATCH_ROWS))


def _number(batches: Iterable[Any], path: Path | str) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = (row for batch in batches for row in _whole(batch).to_pylist())
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
    except (pa.ArrowException, ValueError, OverflowError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(f"{path}: cannot be read: {reason}") from None
