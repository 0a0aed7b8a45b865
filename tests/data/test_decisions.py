"""The file of people's decisions: what is read, and the one line that a mistake gets."""

import json

import pytest

from helpers.hostile_text import HOSTILE, is_harmless
from sealtune.core.errors import UserError
from sealtune.core.types import Decision, Drop
from sealtune.data.decisions import read_decisions

AT = "2026-11-27T18:00:00+00:00"
GOOD = {"id": "a", "decision": "drop", "by": "Ann", "at": AT}


def read(tmp_path, *rows, unusable=()):
    path = tmp_path / "decisions.jsonl"
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines))
    return read_decisions(str(path), ["a", "b", "7"], unusable)


def test_the_last_line_about_a_row_counts_and_blank_lines_do_not(tmp_path):
    found = read(
        tmp_path, GOOD, b"", GOOD | {"id": 7, "by": "Ben", "note": "fine", "more": 1}, GOOD | {"decision": "keep"}
    )
    assert found == {
        "a": Decision("a", "keep", "Ann", AT),
        "7": Decision("7", "drop", "Ben", AT, "fine"),
    }


def test_a_row_that_cannot_be_used_cannot_be_kept(tmp_path):
    long = Drop("long", "s", "too_long", "900 tokens", {})
    assert read(tmp_path, GOOD | {"id": "long"}, unusable=[long]) == {}
    with pytest.raises(UserError, match=r"line 2: row 'long' cannot be kept.*too_long: 900 tokens"):
        read(tmp_path, GOOD, GOOD | {"id": "long", "decision": "keep"}, unusable=[long])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (GOOD | {"id": "c"}, "no candidate has the id 'c'"),
        (GOOD | {"id": "\ud800"}, "unknown id"),
        ({"decision": "drop"}, "no id; give the id"),
        (GOOD | {"id": True}, "unknown id 'True'"),
        (GOOD | {"decision": "dorp"}, "unknown decision 'dorp'; did you mean 'drop'?"),
        (GOOD | {"decision": None}, "unknown decision 'None'; known: keep, drop, unsure"),
        (GOOD | {"by": None}, "unknown by 'None'; text is needed"),
        ({key: value for key, value in GOOD.items() if key != "at"}, "no at; text is needed"),
        (GOOD | {"at": "yesterday"}, "unknown at 'yesterday'; write 2026"),
        (GOOD | {"note": 3}, "unknown note '3'"),
        ([1], "not a JSON object"),
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_line(tmp_path, row, message):
    with pytest.raises(UserError) as error:
        read(tmp_path, GOOD, row)
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'decisions.jsonl'}, line 2: ") and message in text and "\n" not in text


def test_a_hostile_line_cannot_move_the_cursor(tmp_path):
    with pytest.raises(UserError) as error:
        read(tmp_path, GOOD | {"decision": HOSTILE})
    assert is_harmless(str(error.value))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: the decisions cannot be read"):
        read_decisions(str(tmp_path / "none.jsonl"), ["a"])
