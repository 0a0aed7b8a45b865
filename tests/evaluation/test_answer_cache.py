import json

import pytest

from sealtune.core.errors import RunError
from sealtune.evaluation.answer_cache import AnswerCache


def test_records_are_read_back(tmp_path):
    path = tmp_path / "deep/cache.jsonl"
    cache = AnswerCache(path)
    cache["a"] = {"text": "one\nline \u2028 \ud83d\ude00"}
    cache["b"] = {"text": "two"}
    cache["a"] = {"text": "three"}
    again = AnswerCache(path)
    assert (again["a"], again["b"]) == ({"text": "three"}, {"text": "two"})
    assert "a" in again and "c" not in again
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("torn", [b'{"key": "b", "te', b"\xff\xfe", b"[1]\n", b"{}\n", b"\n\n", b"7"])
def test_a_line_broken_by_a_crash_is_ignored_and_others_are_kept(tmp_path, torn):
    path = tmp_path / "cache.jsonl"
    path.write_bytes(json.dumps({"key": "a", "text": "one"}).encode() + b"\n" + torn)
    cache = AnswerCache(path)
    assert "a" in cache and "b" not in cache
    cache["c"] = {"text": "three"}
    again = AnswerCache(path)
    assert again["a"] == {"text": "one"} and again["c"] == {"text": "three"}


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        AnswerCache(tmp_path / "file/cache.jsonl")["a"] = {}
