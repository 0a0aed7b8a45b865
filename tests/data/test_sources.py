import json

import datasets
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.file_types import ROWS, WRITERS, write_csv, write_jsonl, write_parquet
from sealtune.core.config import DatasetConfig
from sealtune.core.errors import UserError
from sealtune.data.sources import local_files, read_rows


def read(path, **options):
    return list(read_rows(DatasetConfig(path=str(path), **options)))


def error_message(path, **options):
    with pytest.raises(UserError) as caught:
        read(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_file_type_gives_the_same_rows(tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    WRITERS[suffix](path)
    assert [row for _, row in read(path)] == ROWS


def test_arrow_ipc_files_are_read(tmp_path):
    path, table = tmp_path / "rows.arrow", pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(path, table.schema) as sink:
        sink.write_table(table)
    assert [row for _, row in read(path)] == ROWS


@pytest.mark.parametrize("content", [{"data": ROWS, "version": 1}, ROWS[0], {"messages": [{"role": "user"}]}])
def test_a_json_object_contains_rows_or_is_one(tmp_path, content):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(content))
    assert [row for _, row in read(path)] == (ROWS if "data" in content else [content])


def test_a_json_file_may_contain_json_lines(tmp_path):
    path = tmp_path / "rows.json"
    write_jsonl(path)
    assert read(path)[1] == (f"{path}, line 3", ROWS[1])


def test_line_and_row_numbers_start_at_one(tmp_path):
    path = tmp_path / "rows.csv"
    write_csv(path)
    assert [where for where, _ in read(path)] == [f"{path}, line 2", f"{path}, line 4"]  # a field contains a line break
    path = tmp_path / "rows.parquet"
    write_parquet(path)
    assert [where for where, _ in read(path)] == [f"{path}, row 1", f"{path}, row 2"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": 1 "b": 2}', "line 2: not valid JSON (Expecting ',' delimiter at column 9); fix or delete the line"),
        (b'{"a": "\xff"}', "line 2: not UTF-8 text (byte 0xff); save the file as UTF-8"),
        (b"[1, 2]", "line 2: a row must be an object, not a list"),
        (b"[" * 100_000, "line 2: nested too deeply; fix or delete the line"),
        (b"9" * 5000, "line 2: not valid JSON (Exceeds the limit"),
    ],
)
def test_the_line_of_an_error_is_named(tmp_path, line, message):
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    assert error_message(path).startswith(f"{path}, {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,\n1,2\n", "column 2 has no name"),
        (b"a,b,a\n1,2,3\n", "two columns are named 'a'"),
        (b"a,b\n1,2\n1,2,3\n", "line 3: 3 fields, but the header has 2"),
        (b"a,b\n1,\0\n", "line 2: a NUL byte"),
        (b'a,b\n1,"2\n3,4\n', "not valid CSV (unexpected end of data)"),
        (b"a,b\n1,\xe9\n", "line 2: not UTF-8 text (byte 0xe9)"),
        (b"a,b\n", "no rows"),
    ],
)
def test_errors_in_csv_files_are_described(tmp_path, content, message):
    path = tmp_path / "c.csv"
    path.write_bytes(content)
    assert message in error_message(path)


def test_a_large_csv_field_is_read(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("a,b\n1," + "x" * 200_000 + "\n")
    assert len(read(path)[0][1]["b"]) == 200_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", b"\n \n", "no rows"),
        ("c.json", b"", "no rows"),
        ("c.json", b'{"a": 1}', "neither a list of objects nor an object that contains one"),
        ("c.json", b'[{"a": 1},\n{"a" 2}]', "not valid JSON (Expecting ':' delimiter at line 2, column 6)"),
        ("c.json", b'[{"a": 1}, 2]', "row 2: a row must be an object"),
        ("c.json", b'[{"a": \n"\xff"}]', "line 2: not UTF-8 text"),
        ("c.jsonl.gz", b"\x1f\x8b", "cannot be decompressed"),
        ("c.xlsx", b"PK", ".xlsx files are not read; unpack or save it as CSV or JSONL"),
        ("c.gguf", b"GGUF", "unknown file type"),
        ("c.parquet", b"nonsense", "cannot be read"),
        ("c.arrow", b"nonsense", "cannot be read"),
    ],
)
def test_an_unreadable_file_is_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    assert message in error_message(path)


def test_a_missing_file_is_not_requested_from_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("requested from the hub"))
    for path in ("x.jsonl", "owner/x.csv", "owner/x.jsonl.gz", "../x", "a/b/c", str(tmp_path / "x")):
        assert "no such file" in error_message(path)


def test_a_hub_dataset_is_loaded_with_name_and_split(monkeypatch):
    def load_dataset(path, name, *, split):
        assert (path, name, split) == ("owner/rows", "small", "test")
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = read("owner/rows", name="small", split="test")
    assert rows == [("owner/rows, row 1", ROWS[0]), ("owner/rows, row 2", ROWS[1])]


def test_an_unreachable_hub_is_one_line(monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert error_message("owner/rows") == "owner/rows: no such file, and it cannot be loaded as a hub dataset: no route"


def test_save_to_disk_folders_are_read(tmp_path):
    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(test=table).save_to_disk(str(tmp_path / "split"))
    assert [row for _, row in read(tmp_path / "one")] == ROWS
    assert [row for _, row in read(tmp_path / "split", split="test")] == ROWS
    assert "no split 'train'; it has test" in error_message(tmp_path / "split")
    assert "holds folders of save_to_disk (one, split/test); name one of them" in error_message(tmp_path)


def test_a_home_and_a_pattern_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for number in (10, 9):
        (tmp_path / f"part-{number}.jsonl").write_text(json.dumps({"n": number}))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.jsonl").write_text('{"n": 1}')
    assert [row["n"] for _, row in read("~/part-9.jsonl")] == [9]
    assert [row["n"] for _, row in read("~/part-*.jsonl")] == [9, 10]
    assert [row["n"] for _, row in read("~/**/*.jsonl")] == [1, 9, 10]
    assert [row["n"] for _, row in read("~")] == [1, 9, 10]
    assert "no such user" in error_message("~nobody-of-this-name/x.jsonl")


def test_a_pattern_that_matches_nothing_or_several_types_is_one_line(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    (tmp_path / "b.csv").write_text("a\n1\n")
    (tmp_path / "deep").mkdir()
    assert "no file matches" in error_message(tmp_path / "*.parquet")
    assert "only folders match" in error_message(tmp_path / "de*")
    assert "several types (1 .csv, 1 .jsonl)" in error_message(tmp_path / "*")
    assert [row for _, row in read(tmp_path / "*.csv")] == [{"a": "1"}]


def test_a_file_of_a_name_with_brackets_is_no_pattern(tmp_path):
    (tmp_path / "rows[1].jsonl").write_text('{"a": 1}')
    assert len(read(tmp_path / "rows[1].jsonl")) == 1


def test_a_split_of_a_file_that_has_none_is_refused(tmp_path):
    for name, content in (("rows.csv", "a\n1\n"), ("rows.jsonl", '{"a": 1}\n{"a": 2}\n'), ("rows.json", '[{"a": 1}]')):
        (tmp_path / name).write_text(content)
        assert "no split 'test'" in error_message(tmp_path / name, split="test")
    (tmp_path / "rows-test.csv").write_text("a\n1\n")
    assert len(read(tmp_path / "rows-test.csv", split="test")) == 1


def test_all_files_that_are_read_are_listed(tmp_path):
    (tmp_path / ".git").mkdir()
    for name in ("train.jsonl", "test.jsonl", "README.md", ".git/train.jsonl"):
        (tmp_path / name).write_text("{}")
    assert local_files(DatasetConfig(path=str(tmp_path))) == [tmp_path / "train.jsonl"]
    assert local_files(DatasetConfig(path=str(tmp_path / "t*.jsonl"))) == [
        tmp_path / "test.jsonl",
        tmp_path / "train.jsonl",
    ]
    assert local_files(DatasetConfig(path=str(tmp_path / "test.jsonl"))) == [tmp_path / "test.jsonl"]
    assert local_files(DatasetConfig(path="owner/rows")) is None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.binary(max_size=30), st.sampled_from([b'{"a":1}', b"\n", b"{", b"\xef\xbb\xbf", b"NaN"]))))
def test_random_bytes_give_rows_or_a_user_error(tmp_path, pieces):
    for suffix in ("jsonl", "json", "csv"):
        path = tmp_path / f"rows.{suffix}"
        path.write_bytes(b"".join(pieces))
        try:
            assert all(isinstance(row, dict) for _, row in read(path))
        except UserError as error:
            assert "\n" not in str(error)
