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
    assert [turn.content for turn in sample.messages] == ["s", "a", "b"]
    assert sample.row == rows[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"prompt": "ask"}}, r"rows.jsonl: no column 'ask' \(columns found: answer, question\)"),
        ({"format": "alpaca"}, r"rows.jsonl: no column 'instruction' \(columns found: answer, question\)"),
        ({"format": "messages"}, r"rows.jsonl: no column 'messages' \(columns found: answer, question\)"),
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
    with pytest.raises(UserError, match=r"no usable row \(2 empty response, 1 not text\)"):
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


def test_two_formats_in_one_file_are_both_read(rows_file, reads, caplog):
    rows = [
        pair("a", "b"),
        {"system_prompt": "s", "question": "c", "response": "d"},
        {"messages": [turn("e"), answer("f")]},
    ]
    with caplog.at_level("INFO", "sealtune"):
        loaded = load([rows_file(rows)])
    assert reads == ["rows.jsonl"]
    assert [sample.response for sample in loaded.samples] == ["b", "d", "f"]
    assert loaded.samples[1].messages[0] == Message("system", "s")
    assert "1 row as prompt_response, 1 row as openorca, 1 row as messages" in caplog.text


def test_a_table_of_two_formats_has_nulls(rows_file):
    rows = [{"messages": None, "prompt": "a", "response": "b"}, {"messages": [turn("c"), answer("d")], "prompt": None}]
    rows[1]["response"] = None
    assert [sample.response for sample in load([rows_file(rows)]).samples] == ["b", "d"]


def test_a_row_without_the_needed_columns_is_dropped(rows_file, reads):
    rows = load([rows_file([{}, {"prompt": "a"}, pair("a", "b")])])
    assert [drop.reason for drop in rows.drops] == ["missing_column"] * 2
    assert reads == ["rows.jsonl"]


def turn(text, role="user", **more):
    return {"role": role, "content": text, **more}


def answer(text, **more):
    return turn(text, "assistant", **more)


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
def test_a_row_is_read_in_the_same_way_among_other_rows(rows, renamed):
    """So no row changes how another one is read, whatever their order."""

    def outcome(*chosen):
        made = [dict.fromkeys(row, "a") for row in chosen]
        try:
            found = load([DatasetConfig(path="made", columns=renamed, rows=made)])
        except UserError:
            return None
        return {sample.position: sample.messages for sample in found.samples}

    together = outcome(*rows)
    if together is not None:
        alone = {i: outcome(row) for i, row in enumerate(rows)}
        assert all(alone[i] in (None, {0: messages}) for i, messages in together.items())
        assert not any(alone[i] for i in alone.keys() - together.keys())


def test_no_dataset_has_no_rows():
    assert not no_rows().samples and not no_rows().drops
