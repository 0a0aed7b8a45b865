import json

import pytest

from sealtune.core.errors import RunError
from sealtune.evaluation.answer_cache import AnswerCache


def test_records_are_there_again(tmp_path):
    path = tmp_path / "deep/ledger.jsonl"
    ledger = AnswerCache(path)
    ledger["a"] = {"text": "one\nline \u2028 \ud83d\ude00"}
    ledger["b"] = {"text": "two"}
    ledger["a"] = {"text": "three"}
    again = AnswerCache(path)
    assert (again["a"], again["b"]) == ({"text": "three"}, {"text": "two"})
    assert "a" in again and "c" not in again
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("torn", [b'{"key": "b", "te', b"\xff\xfe", b"[1]\n", b"{}\n", b"\n\n", b"7"])
def test_a_line_broken_by_a_crash_is_not_read_and_spoils_no_other(tmp_path, torn):
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(json.dumps({"key": "a", "text": "one"}).encode() + b"\n" + torn)
    ledger = AnswerCache(path)
    assert "a" in ledger and "b" not in ledger
    ledger["c"] = {"text": "three"}
    again = AnswerCache(path)
    assert again["a"] == {"text": "one"} and again["c"] == {"text": "three"}


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        AnswerCache(tmp_path / "file/ledger.jsonl")["a"] = {}
