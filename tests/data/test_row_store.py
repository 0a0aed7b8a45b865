import json
from pathlib import Path

import numpy as np
import pytest

from helpers.rows import made_rows, write_jsonl
from sealtune.core.config import DatasetConfig
from sealtune.core.json_rows import JsonRow, to_json_line
from sealtune.core.string_array import StringArray
from sealtune.core.types import Message, Sample
from sealtune.data import row_writer
from sealtune.data.load import load
from sealtune.data.row_store import UntokenizedRows, UnusedRows, open_rows


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(row_writer, "BLOCK_ROWS", 4)
    rows = [
        {"id": f"r{i}", "prompt": f"p{i}", "response": "" if i % 5 == 0 else "x", "more": [i, None]} for i in range(23)
    ]
    return DatasetConfig(path=str(write_jsonl(tmp_path / "rows.jsonl", rows)))


def test_rows_are_the_same_in_memory_in_a_folder_and_reopened(config, tmp_path):
    in_memory, written, reopened = load([config]), load([config], tmp_path), open_rows(tmp_path)
    for rows in (written, reopened):
        assert list(rows.samples) == list(in_memory.samples)
        assert list(rows.drops) == list(in_memory.drops)
        assert rows.digest == in_memory.digest
    assert len(reopened.samples) == 18
    assert [drop.position for drop in reopened.drops] == [0, 5, 10, 15, 20]
    assert reopened.samples[-1] == Sample(
        "r22", (Message("user", "p22"), Message("assistant", "x")), "rows", {"id": "r22", **_rest(22)}, 22
    )


def _rest(i):
    return {"prompt": f"p{i}", "response": "x", "more": [i, None]}


def test_selected_rows_are_read_in_blocks(config):
    samples = load([config]).samples
    rows = np.array([0, 3, 4, 9, 17])
    assert list(samples.take(rows)) == [samples[int(i)] for i in rows]
    assert [sample.id for sample in samples[3:6]] == list(samples.ids)[3:6]


def test_the_digest_changes_with_any_sample(config):
    before = load([config]).digest
    lines = Path(config.path).read_text().splitlines()
    changed = {**json.loads(lines[7]), "prompt": "another"}
    Path(config.path).write_text("\n".join([*lines[:7], json.dumps(changed), *lines[8:]]))
    assert load([config]).digest != before


def test_positions_count_unusable_rows_too(config):
    rows = load([config])
    assert rows.positions(["r22", "r1", "r6"]).tolist() == [22, 1, 6]


def test_progress_is_reported(config, monkeypatch):
    monkeypatch.setattr("sealtune.data.load.REPORT_EVERY", 10)
    reports = []
    load([config], on_progress=reports.append)
    assert reports == [10, 20]


@pytest.mark.parametrize("value", ["\ud800", float("nan"), 1.5, "é\u2028", [1, {"a": None}]])
def test_a_json_line_equals_the_row_and_is_written_unchanged(value):
    line = JsonRow(to_json_line({"a": value, "b": 1}))
    again = json.loads(line.line)
    assert dict(line) == again
    assert to_json_line(line) == line.line
    assert to_json_line({**line, "c": 2}) == to_json_line({**again, "c": 2})
    assert again["a"] == (None if value != value else value)


def test_unused_rows_are_merged_in_input_order():
    good, bad = [*made_rows(5, 1)], {"prompt": "red", "response": 7}
    rows = load([DatasetConfig(path="x", rows=[good[0], bad, good[1], good[2], bad, good[3], good[4]])])
    indices = [1, 3]
    reasons, details = StringArray.of(["too_long", "empty_response"]), StringArray.of(["long", "blank"])
    untokenized = UntokenizedRows(rows.samples, np.array(indices), reasons, details)
    merged = UnusedRows(untokenized, rows.drops)
    assert len(merged) == 4
    assert [drop.position for drop in merged] == [1, 2, 4, 5]
    assert [drop.reason for drop in untokenized] == ["too_long", "empty_response"]
    assert [drop.id for drop in untokenized] == [rows.samples.ids[i] for i in indices]
    assert [*merged] == [*merged]  # it can be iterated over again
    assert next(iter(untokenized)) in merged
    assert not UnusedRows([], [])
