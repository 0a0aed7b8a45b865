import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealtune.core.config import DatasetConfig
from sealtune.core.errors import UserError
from sealtune.core.types import Message
from sealtune.data import load as loading
from sealtune.data.load import load, no_rows


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


def test_a_row_keeps_its_own_id_columns_and_source(rows_file):
    rows = [pair("a", "b", id=7, label=1, source="web"), pair("c", "d", source=None)]
    first, second = load([rows_file(rows)]).samples
    assert (first.id, first.source, first.row) == ("7", "web", rows[0])
    assert first.messages == (Message("user", "a"), Message("assistant", "b"))
    assert second.source == "rows"
    assert load([rows_file(rows, name="other.jsonl")]).samples[1].source == "other"
    assert load([rows_file(rows).model_copy(update={"name": "mine"})]).samples[1].source == "mine"


def test_hash_ids_depend_only_on_the_content(rows_file):
    alone = ids(rows_file([pair("a", "b")]))
    assert alone == ids(rows_file([{"response": "b", "note": 3, "id": " ", "prompt": "a"}], name="other.jsonl"))
    assert alone != ids(rows_file([pair("a", "c")]))
    assert len(alone[0]) == 16
    assert ids(rows_file([pair("ab", "c")])) != ids(rows_file([pair("a", "bc")], name="x.jsonl"))


def test_a_missing_id_in_a_table_is_no_id(tmp_path):
    path = tmp_path / "rows.parquet"
    table = pa.table({"id": pa.array([float("nan"), None]), "prompt": ["a", "c"], "response": ["b", "d"]})
    pq.write_table(table, path)
    assert all(len(name) == 16 for name in ids(DatasetConfig(path=str(path))))


def test_ids_do_not_depend_on_the_order(rows_file):
    rows = [pair(f"p{i % 7}", f"r{i % 3}", id=f"own{i % 5}" if i % 2 else None) for i in range(80)]
    in_order = sorted(ids(rows_file(rows)))
    random.Random(0).shuffle(rows)
    assert in_order == sorted(ids(rows_file(rows)))
    assert len(set(in_order)) == 80


def test_different_rows_with_the_same_id_get_a_hash_suffix(rows_file):
    found = ids(rows_file([pair("a", "b", id="x"), pair("c", "d", id="x"), pair("a", "b", id="x"), pair("e", "f")]))
    assert found[0].startswith("x~")
    assert found[1].startswith("x~")
    assert found[0] != found[1]
    assert found[2] == f"{found[0]}-2"
    assert found[0] == f"x~{ids(rows_file([pair('a', 'b')]))[0][:8]}"


def test_exact_duplicates_are_numbered_and_taken_names_are_skipped(rows_file):
    rows = [pair("a", "b", id="x"), pair("c", "d", id="x-2"), pair("a", "b", id="x"), pair("a", "b", id="x")]
    assert ids(rows_file(rows)) == ["x", "x-2", "x-3", "x-4"]


def test_ids_are_unique_over_all_datasets(rows_file):
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


def test_renamed_columns_lose_their_old_name(rows_file):
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


def test_the_format_can_be_configured_if_two_match(rows_file):
    row = {"messages": [{"role": "assistant", "content": "m"}], "chosen": "\n\nHuman: a\n\nAssistant: c"}
    assert load([rows_file([row], format="hh_rlhf")]).samples[0].response == "c"


def test_fraction_takes_about_its_share_in_any_order(rows_file):
    rows = [pair(f"p{i}", "r") for i in range(2000)] + [pair(f"q{i}", "") for i in range(200)]
    taken = load([rows_file(rows, fraction=0.25)])
    assert 400 < len(taken.samples) < 600
    assert 25 < len(taken.drops) < 80
    assert {sample.id for sample in taken.samples} == set(ids(rows_file(rows[::-1], fraction=0.25)))
    assert {sample.id for sample in taken.samples} < set(ids(rows_file(rows, fraction=0.5)))


def test_an_error_counts_the_reasons_if_no_row_is_usable(rows_file):
    with pytest.raises(UserError, match=r"no usable row \(2 empty_response, 1 not_text\)"):
        load([rows_file([pair("a", ""), pair("b", " "), pair("c", 1)])])
    with pytest.raises(UserError, match="no row was taken; raise `fraction`"):
        load([rows_file([pair("a", "b")], fraction=1e-9)])


def test_lone_surrogates_in_ids_are_escaped(rows_file):
    (sample,) = load([rows_file([pair("a", "b", id="x\ud800", source="\udc00")])]).samples
    assert (sample.id, sample.source) == ("x\\ud800", "\\udc00")


@pytest.fixture
def reads(monkeypatch):
    """The paths that are read, once per reading."""
    paths = []
    original = loading.read_rows

    def read_rows(config):
        paths.append(Path(config.path).name)
        return original(config)

    monkeypatch.setattr(loading, "read_rows", read_rows)
    return paths


def test_every_source_is_read_once(rows_file, reads):
    one = rows_file([pair("a", "b"), pair("c", "d", note=1)], "one.jsonl")
    two = rows_file([{"question": "a", "response": "b"}], "two.jsonl", columns={"prompt": "question"})
    assert len(load([one, two]).samples) == 3
    assert reads == ["one.jsonl", "two.jsonl"]


def test_a_source_is_read_twice_at_most_if_late_columns_change_the_format(rows_file, reads, tmp_path):
    late = [{"prompt": "a", "response": "b"}, {"system_prompt": "s", "question": "c", "response": "d"}]
    files = [rows_file([pair("a", "b")], "one.jsonl"), rows_file(late, "two.jsonl"), rows_file(late, "three.jsonl")]
    rows = load(files, tmp_path)
    assert reads == ["one.jsonl", "two.jsonl", "three.jsonl", "one.jsonl", "two.jsonl", "three.jsonl"]
    assert [sample.source for sample in rows.samples] == ["one", "two", "three"]
    assert [sample.messages[0] for sample in rows.samples][1:] == [Message("system", "s")] * 2
    assert [drop.reason for drop in rows.drops] == ["missing_column"] * 2


def test_a_first_row_without_the_needed_columns_is_dropped(rows_file, reads):
    rows = load([rows_file([{}, {"prompt": "a"}, pair("a", "b")])])
    assert [drop.reason for drop in rows.drops] == ["missing_column"] * 2
    assert reads == ["rows.jsonl"] * 2


def test_an_error_about_columns_reads_the_source_once_and_lists_all_columns(rows_file, reads):
    for options, message in (
        ({}, "no known format"),
        ({"format": "alpaca"}, "no column"),
        ({"columns": {"x": "y"}}, "'y'"),
    ):
        reads.clear()
        with pytest.raises(UserError, match=rf"{message}.*\(.*answer, prompt.*\)"):
            load([rows_file([{"prompt": "a"}, {"answer": "b"}], **options)])
        assert reads == ["rows.jsonl"]


NAMES = ["prompt", "response", "completion", "instruction", "output", "chosen", "question", "system_prompt", "x"]
columns = st.sets(st.sampled_from(NAMES))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(columns, min_size=1, max_size=5), st.sampled_from([{}, {"prompt": "question"}, {"response": "x"}]))
def test_the_format_is_that_of_all_columns(rows, renamed):
    config = DatasetConfig(path="made", columns=renamed, rows=[dict.fromkeys(row, "a") for row in rows])

    def outcome(load_rows):
        try:
            found = load_rows([config])
        except UserError as error:
            return str(error)
        return [*found.samples, *found.drops]

    def load_with_known_columns(configs):
        sources = [loading._Source(config) for config in configs]
        for source in sources:
            source.scan()
        found = loading._store(sources, loading.RowWriter(), lambda rows: None)
        return found if found.samples else load(configs)

    assert outcome(load) == outcome(load_with_known_columns)


def test_no_dataset_has_no_rows():
    assert not no_rows().samples and not no_rows().drops
