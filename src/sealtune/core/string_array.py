"""Many short strings, mostly ids, as one Arrow array: a tenth of a list's memory, or memory-mapped from a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BLOCK = 2**14
"""Strings converted to Python at once while iterating."""


class StringArray(Sequence[str]):
    """A sequence of strings; ``values`` is an Arrow array of strings, dictionary-encoded or not."""

    __slots__ = ("values",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, values: Any) -> None:
        self.values = values

    @classmethod
    def of(cls, strings: Iterable[str]) -> StringArray:
        """An array of these strings; the same object if it is one already."""
        return strings if isinstance(strings, StringArray) else cls(_array(iter(strings)))

    @classmethod
    def from_column(cls, column: Any) -> StringArray:
        """A column of a table, its chunks combined."""
        if pa.types.is_dictionary(column.type):
            return cls(column.unify_dictionaries().combine_chunks())
        return cls(column.cast(pa.large_string()).combine_chunks())

    @classmethod
    def from_codes(cls, codes: npt.NDArray[np.int32], names: Sequence[str]) -> StringArray:
        """``names[code]`` for each code, at four bytes per string."""
        return cls(pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names, pa.string())))

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> StringArray: ...
    def __getitem__(self, i: int | slice) -> str | StringArray:
        if isinstance(i, slice):
            return StringArray(self.values[i])
        string: str = self.values[int(i)].as_py()
        return string

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BLOCK):
            yield from self.values[start : start + BLOCK].to_pylist()

    def __contains__(self, string: object) -> bool:
        return isinstance(string, str) and bool(pc.index(self.decoded(), string).as_py() >= 0)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __add__(self, other: Iterable[str]) -> StringArray:
        return StringArray.from_column(pa.chunked_array([self.decoded(), StringArray.of(other).decoded()]))

    def __repr__(self) -> str:
        return f"StringArray({list(self[:3])}{'...' if len(self) > 3 else ''}, {len(self)} strings)"

    def decoded(self) -> Any:
        """The Arrow array without a dictionary."""
        return self.values.cast(pa.large_string())

    def take(self, rows: Sequence[int] | IntArray) -> StringArray:
        """The strings at these positions, in this order."""
        return StringArray(self.values.take(pa.array(np.asarray(rows, np.int64))))

    def argsort(self) -> IntArray:
        """Positions that sort the strings, (N,); stable."""
        return np.asarray(pc.sort_indices(self.decoded()), np.int64)

    def index_in(self, wanted: Iterable[str]) -> IntArray:
        """The first position of each of ``wanted``, (K,); -1 if it is missing."""
        found = pc.index_in(StringArray.of(wanted).decoded(), value_set=self.decoded())
        return np.asarray(pc.fill_null(found, -1), np.int64)

    def isin(self, wanted: Iterable[str]) -> npt.NDArray[np.bool_]:
        """Whether each string is in ``wanted``, (N,)."""
        return np.asarray(pc.is_in(self.decoded(), value_set=StringArray.of(wanted).decoded()))

    def dictionary_encode(self) -> tuple[list[str], IntArray]:
        """The distinct strings in order of first occurrence, and the code (N,) of each string."""
        coded = pc.dictionary_encode(self.decoded())
        return coded.dictionary.to_pylist(), np.asarray(coded.indices, np.int64)


def _array(strings: Iterator[str]) -> Any:
    """An Arrow array, built in blocks so that the strings are never all in Python at once."""
    blocks = []
    while block := list(islice(strings, BLOCK)):
        blocks.append(pa.array(block, pa.large_string()))
    return pa.chunked_array(blocks, pa.large_string()).combine_chunks()
