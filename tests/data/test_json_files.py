"""Rows in every arrangement that JSON files come in."""

import json
import logging

import pytest

from sealtune.core.config import DatasetConfig
from sealtune.core.errors import UserError
from sealtune.data.sources import read_rows

ROWS = [{"prompt": "2 + 2?", "response": "4"}, {"prompt": "Ice?", "response": "Cold."}]
FRAME = {"prompt": ["2 + 2?", "Ice?"], "response": ["4", "Cold."]}
TURNS = [
    [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
    [{"role": "user", "content": "Ice?"}, {"role": "assistant", "content": "Cold."}],
]
FROM = [[{"from": "human", "value": t[0]["content"]}, {"from": "gpt", "value": t[1]["content"]}] for t in TURNS]


@pytest.fixture
def write(tmp_path):
    def write_rows(content, name="rows.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write_rows


def read(path, **options):
    return [row for _, row in read_rows(DatasetConfig(path=str(path), **options))]


def error_message(path, **options):
    with pytest.raises(UserError) as caught:
        read(path, **options)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


ARRANGEMENTS = {
    "a list": ROWS,
    "columns": FRAME,
    "pandas, by columns": {key: dict(zip("01", cells, strict=True)) for key, cells in FRAME.items()},
    "pandas, by index": {"0": ROWS[0], "1": ROWS[1]},
    "pandas, split": {"columns": list(FRAME), "index": [0, 1], "data": [list(row.values()) for row in ROWS]},
    "pandas, table": {"schema": {"fields": [{"name": "prompt"}], "primaryKey": ["index"]}, "data": ROWS},
    "splits": {"train": ROWS, "test": [{"prompt": "no"}]},
    "splits by columns": {"train": FRAME, "test": {"prompt": ["no"]}},
    "splits in a container": {"version": 1, "data": {"train": ROWS, "test": ROWS[:1]}},
    "a container": {"version": 1, "rows": ROWS},
    "columns in a container": {"version": 1, "data": FRAME},
    "a page of the hub's server": {
        "features": [{"name": "prompt"}],
        "rows": [{"row_idx": i, "row": row, "truncated_cells": []} for i, row in enumerate(ROWS)],
        "num_rows_total": 9,
    },
}


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_rows_in_any_arrangement_are_read(write, arrangement, indent, suffix):
    assert read(write(json.dumps(ARRANGEMENTS[arrangement], indent=indent), f"rows.{suffix}")) == ROWS


def test_an_arrangement_is_named_in_the_log_once(write, caplog):
    caplog.set_level(logging.INFO, "sealtune")
    path = write(FRAME)
    read(path)
    assert [record.getMessage() for record in caplog.records] == [f"{path}: JSON read by columns"]


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(json.dumps(row, indent=2) for row in ROWS),
        "".join(json.dumps(row) for row in ROWS),
        "".join(json.dumps([row], indent=1) for row in ROWS),
        "\n".join(json.dumps([row]) for row in ROWS),
        f"\n\n{json.dumps(ROWS)}\n\n",
    ],
)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_values_one_after_another_are_read(write, text, suffix):
    assert read(write(text, f"rows.{suffix}")) == ROWS


@pytest.mark.parametrize(("turns", "key"), [(TURNS, "messages"), (FROM, "conversations")])
def test_lists_of_turns_are_conversations(write, turns, key):
    expected = [{key: talk} for talk in turns]
    assert read(write(turns)) == read(write("\n".join(map(json.dumps, turns)), "rows.jsonl")) == expected
    assert read(write({"data": turns})) == read(write({key: turns})) == expected
    assert read(write(turns[0])) == read(write(turns[0], "rows.jsonl")) == expected[:1]
    assert read(write({"id": ["a", "b"], key: turns})) == [
        {"id": i, key: talk} for i, talk in zip("ab", turns, strict=True)
    ]


@pytest.mark.parametrize(
    "row",
    [
        ROWS[0],
        {"question": "2 + 2?", "answer": "4"},
        {"messages": TURNS[0]},
        {"chosen": TURNS[0], "rejected": TURNS[1]},
        {"prompt": TURNS[0][:1], "completion": TURNS[0][1:]},
        {**ROWS[0], "test": [{"input": 1}]},
        {**ROWS[0], "data": [{"source": "book"}]},
        {**ROWS[0], "meta": {"a": 1}},
    ],
)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_single_row_is_not_taken_for_an_arrangement(write, row, suffix):
    assert read(write(row, f"rows.{suffix}")) == [row]


def test_the_labels_of_an_index_become_ids(write):
    assert read(write({"a": ROWS[0], "b": ROWS[1]})) == [{"id": "a", **ROWS[0]}, {"id": "b", **ROWS[1]}]
    by_columns = {key: dict(zip("ab", cells, strict=True)) for key, cells in FRAME.items()}
    assert read(write(by_columns)) == [{"id": "a", **ROWS[0]}, {"id": "b", **ROWS[1]}]


def test_the_split_chooses_the_list(write):
    path = write({"train": ROWS, "test_set": ROWS[:1]})
    assert read(path, split="test_set") == ROWS[:1]
    assert "no split 'test'; it has train, test_set" in error_message(path, split="test")
    assert "no split 'train'; it has test" in error_message(write({"test": ROWS}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"prompt": ["a", "b"], "response": ["c"]}, "JSON by columns of unequal length (prompt: 2, response: 1)"),
        ({"columns": ["a", "b"], "data": [["1"]]}, "row 1: 1 values, but there are 2 columns"),
        ({"columns": ["a", "a"], "data": [["1", "2"]]}, "column names that are not unique"),
        ({"rows": ROWS, "data": ROWS}, "several lists of rows (rows, data); keep one"),
        ({"rows": [{"row_idx": 0, "row": {"a": 1}, "truncated_cells": ["a"]}]}, "row 1: the server has cut its cells"),
        ("{}", "neither a list of objects nor an object that contains one (its keys: none)"),
        (json.dumps([json.dumps(ROWS[0])] * 2), "row 1: a row must be an object, not a str; write the object itself"),
        (f"{ROWS[0]}\n{ROWS[1]}\n", "rows as Python prints them, which is not JSON; write them with json.dumps"),
        ([["a", "b"], ["c", "d"]], "row 1: a row must be an object, not a list"),
        ('{"a": 1}\n\n[1,\n2', "line 3: not valid JSON"),
        ('{\n"a": 1\n}\n{\n"a" 2\n}', "not valid JSON (Expecting ':' delimiter at line 5, column 5)"),
        ('{"a": 1,}\n{"a": 2}', "line 1"),
    ],
)
def test_what_fits_no_arrangement_is_one_line(write, content, message):
    assert message in error_message(write(content))
    assert "a row must" in error_message(write("3", "rows.jsonl"))
