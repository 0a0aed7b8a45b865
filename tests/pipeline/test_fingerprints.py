"""What makes the hash of a data set change: each file that is read, and no other."""

import hashlib

import pytest

from sealtune.core.config import DatasetConfig
from sealtune.pipeline.fingerprints import data_fingerprint, path_fingerprint


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("train-1.jsonl", "deep/train-2.jsonl", "test.jsonl", ".git/x.jsonl", "README.md"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def fingerprint(path):
    return data_fingerprint(DatasetConfig(path=str(path)))["sha256"]


def test_each_file_of_a_folder_that_is_read_counts_and_no_other(folder):
    before = fingerprint(folder)
    for name in ("test.jsonl", ".git/x.jsonl", "README.md"):
        (folder / name).write_text("changed")
        assert fingerprint(folder) == before
    for name in ("train-1.jsonl", "deep/train-2.jsonl"):
        (folder / name).write_text("changed")
        assert fingerprint(folder) != before
        (folder / name).write_text("{}")
    (folder / "train-1.jsonl").rename(folder / "train-3.jsonl")
    assert fingerprint(folder) != before


def test_a_pattern_and_a_home_are_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    before = fingerprint("~/**/train-*.jsonl")
    assert fingerprint(folder / "**" / "train-*.jsonl") == before == path_fingerprint("~/**/train-*.jsonl")
    assert fingerprint("~/test.jsonl") == hashlib.sha256(b"{}").hexdigest()
    (folder / "deep" / "train-2.jsonl").write_text("changed")
    assert fingerprint("~/**/train-*.jsonl") != before


def test_what_is_not_here_has_no_hash(folder):
    assert fingerprint("owner/rows") is None and path_fingerprint("gsm8k") is None
    assert fingerprint(folder / "none.jsonl") is None
