"""The same rows in other shapes of Parquet and Arrow."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sealtune.core.config import DatasetConfig
from sealtune.core.errors import UserError
from sealtune.data import arrow_files
from sealtune.data.sources import read_rows

TALKS = [[{"role": "user", "content": "Hi é"}, {"role": "assistant", "content": "Ho"}], [], None]
TURN = {"role": pa.string(), "content": pa.string()}


@pytest.fixture(params=["parquet", "arrow"])
def read(tmp_path, request):
    """A function from a table to the rows that are read from it."""

    def write_and_read(table):
        path = tmp_path / f"rows.{request.param}"
        if request.param == "parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_stream(path, table.schema) as sink:
                sink.write_table(table, max_chunksize=2)
        return [row for _, row in read_rows(DatasetConfig(path=str(path)))]

    return write_and_read


def as_bytes(talk):
    return talk and [{key: text.encode() for key, text in turn.items()} for turn in talk]


def by_key(talk):
    return None if talk is None else {key: [turn[key] for turn in talk] for key in TURN}


SHAPES = {
    "structs": pa.array(TALKS, pa.list_(pa.struct(TURN))),
    "large": pa.array(TALKS, pa.large_list(pa.struct(dict.fromkeys(TURN, pa.large_string())))),
    "bytes": pa.array(list(map(as_bytes, TALKS)), pa.list_(pa.struct(dict.fromkeys(TURN, pa.binary())))),
    "maps": pa.array(
        [talk and [list(turn.items()) for turn in talk] for talk in TALKS],
        pa.list_(pa.map_(pa.string(), pa.string())),
    ),
    "lists": pa.array(list(map(by_key, TALKS)), pa.struct({key: pa.list_(pa.string()) for key in TURN})),
    "large lists": pa.array(list(map(by_key, TALKS)), pa.struct({key: pa.large_list(pa.string()) for key in TURN})),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_turns_in_any_shape_are_the_same_rows(read, shape):
    table = pa.table({"id": ["a", "b", "c"], "messages": SHAPES[shape]})
    expected = [{"id": i, "messages": talk} for i, talk in zip("abc", TALKS, strict=True)]
    assert read(table) == expected


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["é", None], pa.string_view()),
        pa.array(["é", None]).dictionary_encode(),
        pa.array([b"\xc3\xa9", None], pa.binary_view()),
    ],
)
def test_text_of_any_arrow_type_is_text(tmp_path, column):
    table, path = pa.table({"prompt": column}), tmp_path / "rows.arrow"
    with pa.ipc.new_stream(path, table.schema) as sink:
        sink.write_table(table)
    assert [row["prompt"] for _, row in read_rows(DatasetConfig(path=str(path)))] == ["é", None]


def test_turns_are_converted_in_every_batch(read, monkeypatch):
    monkeypatch.setattr(arrow_files, "BATCH_ROWS", 2)
    talks = [[{"role": "user", "content": str(i)}] * (i % 3) for i in range(7)]
    column = pa.array(list(map(by_key, talks)), SHAPES["lists"].type)
    assert [row["messages"] for row in read(pa.table({"messages": column}))] == talks


def test_turns_of_unequal_length_are_one_line_that_names_the_row(read, monkeypatch):
    monkeypatch.setattr(arrow_files, "BATCH_ROWS", 2)
    values = [by_key(TALKS[0])] * 2 + [{"role": ["user"], "content": []}]
    with pytest.raises(UserError, match=r"row 3: the lists in 'messages' \(role, content\) differ in length"):
        read(pa.table({"messages": pa.array(values, SHAPES["lists"].type)}))


def test_a_struct_of_lists_that_are_no_turns_stays_as_it_is(read):
    value = {"text": ["a"], "score": [1.0]}
    assert read(pa.table({"x": [value]})) == [{"x": value}]


def test_bytes_are_text_if_they_are_utf_8_and_else_stay_bytes(read):
    texts = {"prompt": pa.array(["é".encode(), None]), "large": pa.array([b"a", b"b"], pa.large_binary())}
    image = pa.array([{"bytes": b"\x89PNG\xff", "path": "a.png"}, None])
    rows = read(pa.table({**texts, "image": image}))
    assert rows[0] == {"prompt": "é", "large": "a", "image": {"bytes": b"\x89PNG\xff", "path": "a.png"}}
    assert rows[1] == {"prompt": None, "large": "b", "image": None}


def test_bytes_that_cease_to_be_text_are_one_line(read, monkeypatch):
    monkeypatch.setattr(arrow_files, "BATCH_ROWS", 2)
    with pytest.raises(UserError, match=r"row 5 or one of the next: column 'x' is not UTF-8 text"):
        read(pa.table({"x": [None, b"", b"a", b"b", b"\xff"]}))
    assert [row["x"] for row in read(pa.table({"x": [b"\xff", b"b", b"a"]}))] == [b"\xff", b"b", b"a"]


def test_a_map_with_a_key_twice_is_one_line(read):
    with pytest.raises(UserError, match="cannot be read"):
        read(pa.table({"x": pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int64()))}))
