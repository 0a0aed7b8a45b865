"""Compressed files, encodings, and files that are not what their name says."""

import json

import pytest

from helpers.file_types import COMPRESS, ROWS, WRITERS
from sealtune.core.config import DatasetConfig
from sealtune.core.errors import UserError
from sealtune.data.sources import COMPRESSIONS, FILE_TYPES, read_rows

TEXT_TYPES = [suffix for suffix in WRITERS if suffix not in ("parquet", "arrow")]


def read(path):
    return [row for _, row in read_rows(DatasetConfig(path=str(path)))]


def error_message(path):
    with pytest.raises(UserError) as caught:
        read(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("suffix", TEXT_TYPES)
def test_compressed_text_gives_the_same_rows(tmp_path, suffix, compression):
    WRITERS[suffix](tmp_path / "plain")
    path = tmp_path / f"rows.{suffix.upper()}{compression}"
    path.write_bytes(COMPRESS[compression]((tmp_path / "plain").read_bytes()))
    assert read(path) == ROWS
    path.write_bytes(path.read_bytes()[:-7])
    assert "cannot be decompressed" in error_message(path)


def test_every_compression_is_tested():
    assert COMPRESS.keys() == COMPRESSIONS.keys()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("suffix", TEXT_TYPES)
def test_a_byte_order_mark_names_the_encoding(tmp_path, suffix, encoding):
    path = tmp_path / f"rows.{suffix}"
    WRITERS[suffix](path)
    text = path.read_bytes().decode("utf-8-sig")
    mark = "\ufeff" if encoding.endswith(("-le", "-be")) else ""
    path.write_bytes((mark + text).encode(encoding))
    assert read(path) == ROWS
    path.write_bytes(path.read_bytes()[:-1] if encoding != "utf-8-sig" else path.read_bytes()[:-4] + b"\xff\n")
    assert "text" in error_message(path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_named(tmp_path, encoding):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(ROWS[0]).encode(encoding))
    assert "UTF-16 text without a byte order mark; save the file as UTF-8" in error_message(path)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234567\n"


@pytest.mark.parametrize("suffix", [*WRITERS, *(f"jsonl{compression}" for compression in COMPRESS)])
def test_a_pointer_and_a_web_page_are_named(tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(POINTER)
    assert "this is a git-lfs pointer, not the file itself; run `git lfs pull`" in error_message(path)
    for page in (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", b"\n <HTML lang='en'>", b"\xef\xbb\xbf<html>"):
        path.write_bytes(page)
        assert "this is an HTML page" in error_message(path)


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_compressed_file_under_another_name_is_named(tmp_path, compression):
    for suffix in WRITERS:
        path = tmp_path / f"rows.{suffix}"
        path.write_bytes(COMPRESS[compression](b"0" * 2**16))
        assert f"rename it to rows.{suffix}{compression}" in error_message(path)


def test_a_file_under_the_name_of_another_type_is_named(tmp_path):
    for suffix in ("parquet", "arrow"):
        WRITERS[suffix](tmp_path / f"rows.{suffix}")
    WRITERS["jsonl"](tmp_path / "rows.jsonl")
    for kind, name in (("parquet", "x.jsonl"), ("parquet", "x.arrow"), ("arrow", "x.csv"), ("jsonl", "x.parquet")):
        (tmp_path / name).write_bytes((tmp_path / f"rows.{kind}").read_bytes())
        assert f"rename it to x.{kind}" in error_message(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PK\x03\x04xl/workbook.xml", "a zip archive or an Excel workbook"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"rows.jsonl".ljust(257, b"\0") + b"ustar", "a tar archive"),
    ],
)
def test_an_archive_or_database_is_named(tmp_path, content, what):
    for suffix in FILE_TYPES:
        (tmp_path / f"rows{suffix}").write_bytes(content)
        assert f"this is {what}" in error_message(tmp_path / f"rows{suffix}")
