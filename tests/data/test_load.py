import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sealtune.core.config import DatasetConfig
from sealtune.core.errors import UserError
from sealtune.core.types import Message
from sealtune.data.load import load


@pytest.fixture
def rows_file(tmp_path):
    def write(rows, name="rows.jsonl", **options):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return DatasetConfig(path=str(path), **options)

    return write


def pair(prompt, response, **more):
    return {"prompt": prompt, "response": response, **more}


def ids(*configs):
    return [sample.id for sample in load(configs).samples]


def test_row_keeps_its_own_id_schema_and_source(rows_file):
    rows = [pair("a", "b", id=7, label=1, source="web"), pair("c", "d", source=None)]
    first, second = load([rows_file(rows)]).samples
    assert (first.id, first.source, first.row) == ("7", "web", rows[0])
    assert first.messages == (Message("user", "a"), Message("assistant", "b"))
    assert second.source == "rows"
    assert load([rows_file(rows, name="other.jsonl")]).samples[1].source == "other"
    assert load([rows_file(rows).model_copy(update={"name": "mine"})]).samples[1].source == "mine"


def test_hash_ids_are_of_the_content_alone(rows_file):
    alone = ids(rows_file([pair("a", "b")]))
    assert alone == ids(rows_file([{"response": "b", "note": 3, "id": " ", "prompt": "a"}], name="other.jsonl"))
    assert alone != ids(rows_file([pair("a", "c")]))
    assert len(alone[0]) == 16
    assert ids(rows_file([pair("ab", "c")])) != ids(rows_file([pair("a", "bc")], name="x.jsonl"))


def test_a_missing_id_of_a_table_is_none(tmp_path):
    path = tmp_path / "rows.parquet"
    table = pa.table({"id": pa.array([float("nan"), None]), "prompt": ["a", "c"], "response": ["b", "d"]})
    pq.write_table(table, path)
    assert all(len(name) == 16 for name in ids(DatasetConfig(path=str(path))))


def test_ids_do_not_depend_on_the_order(rows_file):
    rows = [pair(f"p{i % 7}", f"r{i % 3}", id=f"own{i % 5}" if i % 2 else None) for i in range(80)]
    straight = sorted(ids(rows_file(rows)))
    random.Random(0).shuffle(rows)
    assert straight == sorted(ids(rows_file(rows)))
    assert len(set(straight)) == 80


def test_own_id_of_differing_rows_gets_their_hash(rows_file):
    found = ids(rows_file([pair("a", "b", id="x"), pair("c", "d", id="x"), pair("a", "b", id="x"), pair("e", "f")]))
    assert found[0].startswith("x~")
    assert found[1].startswith("x~")
    assert found[0] != found[1]
    assert found[2] == f"{found[0]}-2"
    assert found[0] == f"x~{ids(rows_file([pair('a', 'b')]))[0][:8]}"


def test_exact_duplicates_are_numbered_past_names_that_are_taken(rows_file):
    rows = [pair("a", "b", id="x"), pair("c", "d", id="x-2"), pair("a", "b", id="x"), pair("a", "b", id="x")]
    assert ids(rows_file(rows)) == ["x", "x-2", "x-3", "x-4"]


def test_ids_are_unique_over_all_data_sets(rows_file):
    one, two = rows_file([pair("a", "b", id=1)]), rows_file([pair("c", "d", id=1), pair("a", "b", id=1)], "two.jsonl")
    found = ids(one, two)
    assert len(set(found)) == 3
    assert all(name.startswith("1~") for name in found)


def test_drops_have_ids_and_reasons(rows_file):
    rows = [pair("a", "b"), pair("c", "", id="blank"), {"prompt": "e"}, pair("c", None)]
    loaded = load([rows_file(rows)])
    assert [drop.reason for drop in loaded.drops] == ["empty_response", "missing_column", "not_text"]
    assert loaded.drops[0].id == "blank"
    assert loaded.drops[1].row == rows[2]
    assert len({drop.id for drop in loaded.drops}) == 3


def test_columns_rename_and_hide_the_old_name(rows_file):
    rows = [{"question": "a", "answer": "b", "response": "other", "system_prompt": "s", "uid": "u"}]
    columns = {"prompt": "question", "response": "answer", "id": "uid"}
    (sample,) = load([rows_file(rows, columns=columns)]).samples
    assert sample.id == "u"
    assert [turn.content for turn in sample.messages] == ["a", "b"]
    assert sample.row == rows[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"prompt": "ask"}}, r"rows.jsonl: no column 'ask' \(columns found: answer, question\)"),
        ({"format": "alpaca"}, r"rows.jsonl: no column 'instruction' \(columns found: answer, question\)"),
        ({}, r"rows.jsonl: columns of no known format \(answer, question\)"),
        ({"format": "nonsense"}, "no row format 'nonsense'"),
    ],
)
def test_missing_columns_are_named(rows_file, options, message):
    with pytest.raises(UserError, match=message):
        load([rows_file([{"question": "a", "answer": "b"}], **options)])


def test_format_settles_a_tie(rows_file):
    row = {"messages": [{"role": "assistant", "content": "m"}], "chosen": "\n\nHuman: a\n\nAssistant: c"}
    assert load([rows_file([row], format="hh_rlhf")]).samples[0].response == "c"


def test_fraction_takes_about_its_share_whatever_the_order(rows_file):
    rows = [pair(f"p{i}", "r") for i in range(2000)] + [pair(f"q{i}", "") for i in range(200)]
    taken = load([rows_file(rows, fraction=0.25)])
    assert 400 < len(taken.samples) < 600
    assert 25 < len(taken.drops) < 80
    assert {sample.id for sample in taken.samples} == set(ids(rows_file(rows[::-1], fraction=0.25)))
    assert {sample.id for sample in taken.samples} < set(ids(rows_file(rows, fraction=0.5)))


def test_nothing_usable_is_an_error_that_counts_the_reasons(rows_file):
    with pytest.raises(UserError, match=r"no usable row \(2 empty_response, 1 not_text\)"):
        load([rows_file([pair("a", ""), pair("b", " "), pair("c", 1)])])
    with pytest.raises(UserError, match="no row was taken; raise `fraction`"):
        load([rows_file([pair("a", "b")], fraction=1e-9)])


def test_halves_of_surrogate_pairs_in_ids_can_be_written(rows_file):
    (sample,) = load([rows_file([pair("a", "b", id="x\ud800", source="\udc00")])]).samples
    assert (sample.id, sample.source) == ("x\\ud800", "\\udc00")
