"""What a file really is, from its first bytes: people save web pages, git-lfs pointers and archives as data files."""

from __future__ import annotations

import re
from pathlib import Path

from sealtune.core.errors import UserError

HEAD_BYTES = 512
"""How many of the first bytes are looked at."""

_HTML = re.compile(rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)?<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_JSON = re.compile(rb"(\xef\xbb\xbf)?\s*[\[{]\s*[\[{\"]")
_SIGNATURES = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a git-lfs pointer, not the file itself; run `git lfs pull` in its folder",
    ),
    (b"PAR1", "a Parquet file; rename it to {stem}.parquet"),
    (b"ARROW1", "an Arrow file; rename it to {stem}.arrow"),
    (b"\xff\xff\xff\xff", "an Arrow stream; rename it to {stem}.arrow"),
    (b"\x1f\x8b\x08", "compressed with gzip; rename it to {name}.gz"),
    (b"BZh", "compressed with bzip2; rename it to {name}.bz2"),
    (b"\xfd7zXZ\0", "compressed with xz; rename it to {name}.xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; rename it to {name}.zst"),
    (b"\x04\x22\x4d\x18", "compressed with lz4; rename it to {name}.lz4"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook; unpack it, or save the sheet as CSV (UTF-8)"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook; save the sheet as CSV (UTF-8)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (b"SQLite format 3\0", "an SQLite database; export the table as CSV or JSONL"),
    (b"%PDF-", "a PDF; export the rows as CSV or JSONL"),
)
_TAR_MAGIC, _TAR_OFFSET = b"ustar", 257


def require_content(path: Path, head: bytes, *expected: bytes) -> None:
    """Raise UserError if the file is recognised as something else than its name says.

    Args:
        path: The file.
        head: Its first bytes.
        expected: How a file of this type may begin; nothing for text.
    """
    if expected and head.startswith(expected):
        return
    found = _describe(head)
    if found is None and expected and _JSON.match(head):
        found = "JSON text; rename it to {stem}.jsonl"
    if found is not None:
        raise UserError(f"{path}: this is {found.format(stem=path.stem, name=path.name)}")


def require_encoding(path: Path, head: bytes) -> None:
    """Raise UserError if a text is UTF-16 without the mark that says so, which can only be guessed."""
    if len(head) > 1 and (head[0] == 0) != (head[1] == 0):
        raise UserError(f"{path}: UTF-16 text without a byte order mark; save the file as UTF-8")


def _describe(head: bytes) -> str | None:
    """What the file is and what to do, if it is none of the types that hold rows as text."""
    if _HTML.match(head):
        return "an HTML page, not the file itself; download the file again (a sign-in or error page was saved)"
    if head[_TAR_OFFSET:].startswith(_TAR_MAGIC):
        return "a tar archive; unpack it"
    return next((text for magic, text in _SIGNATURES if head.startswith(magic)), None)
