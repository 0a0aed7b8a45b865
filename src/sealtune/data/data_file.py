"""One data file: its type, its bytes without compression, and its text as UTF-8 without a byte order mark."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from sealtune.core.encodings import encoding_of
from sealtune.core.errors import UserError
from sealtune.data.file_signatures import HEAD_BYTES, require_content, require_encoding
from sealtune.data.size_limits import Allowance


@dataclass(frozen=True)
class DataFile:
    """A file of rows.

    Args:
        path: Where it lies.
        allowance: The bytes that it may grow by; files of one folder share theirs.
        split: The split to read, if the file itself contains several.
    """

    path: Path
    allowance: Allowance
    split: str = "train"

    @property
    def type(self) -> str:
        """The suffix that names the type, in small letters: ``.jsonl`` of ``rows.JSONL.gz``."""
        return file_type(self.path)

    def copy(self) -> DataFile:
        """The same file, to read it once more than the allowance counts."""
        return replace(self, allowance=copy(self.allowance))

    def open(self) -> io.BufferedReader:
        """The bytes, decompressed while they are read. Raises UserError if the content is not what the name says."""
        raw = self.path.open("rb")
        compression = COMPRESSIONS.get(self.path.suffix.lower())
        require_content(self.path, raw.peek(HEAD_BYTES)[:HEAD_BYTES], *(compression.magics if compression else ()))
        if compression is None:
            return raw
        stream: io.BufferedReader = io.BufferedReader(_Decompressed(compression.open(raw), self), buffer_size=2**16)
        require_content(self.path, stream.peek(HEAD_BYTES)[:HEAD_BYTES])
        return stream

    def lines(self) -> Iterator[bytes]:
        r"""The lines in UTF-8, each with its ``\n``; another line break does not end a line. Raises UserError."""
        with self.open() as stream:
            head = stream.peek(4)[:4]
            require_encoding(self.path, head)
            encoding = encoding_of(head)
            if encoding in ("utf-8", "utf-8-sig"):
                yield stream.readline().removeprefix(codecs.BOM_UTF8)
                yield from stream
            else:
                yield from self._recoded(io.TextIOWrapper(stream, encoding, newline="\n"))

    def _recoded(self, text: io.TextIOWrapper) -> Iterator[bytes]:
        try:
            for line in text:
                yield line.encode()
        except UnicodeError as error:
            reason = getattr(error, "reason", error)
            raise UserError(f"{self.path}: not {text.encoding.upper()} text ({reason}); save it as UTF-8") from None


def file_type(path: Path) -> str:
    """The suffix of a path that names the file type, without that of a compression."""
    is_compressed = path.suffix.lower() in COMPRESSIONS
    return Path(path.stem if is_compressed else path).suffix.lower()


def decode(content: bytes, where: str, line: int = 0) -> str:
    """UTF-8 as text.

    Args:
        content: The bytes.
        where: The file, or the line of it, for the error message.
        line: The number of the first line, if ``where`` does not name it.

    Raises:
        UserError: it is not UTF-8.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        number = line + content.count(b"\n", 0, error.start)
        place = f"{where}, line {number}" if line else where
        raise UserError(
            f"{place}: not UTF-8 text (byte 0x{content[error.start]:02x}); save the file as UTF-8"
        ) from None


class _Decompressed(io.RawIOBase):
    """A decompressed stream that ends with an error when it has grown beyond the allowance of its file."""

    def __init__(self, stream: Any, file: DataFile) -> None:
        self.stream = stream
        self.file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            chunk = self.stream.read(len(buffer))
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            raise UserError(f"{self.file.path}: cannot be decompressed: {error}; download or pack it again") from None
        self.file.allowance.spend(len(chunk))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self.stream.close()
        super().close()


@dataclass(frozen=True)
class _Compression:
    magics: tuple[bytes, ...]
    open: Callable[[Any], Any]


def _open_by_arrow(name: str) -> Callable[[Any], Any]:
    """For compressions that Python 3.11 lacks."""

    def open_stream(raw: Any) -> Any:
        import pyarrow as pa

        return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), name)

    return open_stream


COMPRESSIONS = {
    ".gz": _Compression((b"\x1f\x8b",), cast(Callable[[Any], Any], gzip.open)),
    ".bz2": _Compression((b"BZh",), bz2.open),
    ".xz": _Compression((b"\xfd7zXZ\0",), lzma.open),
    ".zst": _Compression((b"\x28\xb5\x2f\xfd",), _open_by_arrow("zstd")),
    ".lz4": _Compression((b"\x04\x22\x4d\x18",), _open_by_arrow("lz4")),
}
"""Compressions of text files by suffix."""
