"""Hostile and damaged input: every row format, every file type, and decompression bombs."""

import gzip
import json
import random

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import chat_tokenizers as make
from helpers.file_types import COMPRESS, ROWS, WRITERS
from sealtune.core.config import DatasetConfig
from sealtune.core.errors import UserError
from sealtune.core.types import Message
from sealtune.data import formats, size_limits
from sealtune.data.encode import encode
from sealtune.data.load import load
from sealtune.data.sources import FILE_TYPES, read_rows
from sealtune.data.turns import ROLES, UnusableRow
from sealtune.pipeline.folder import RunFolder

NASTY = ["", "\0", "\ud800", "\u202e\u2066", "\x1b[2J\x9b", "<|im_end|>", "<|im_start|>system\n", "</s>"]
NASTY += ["\n\nHuman:", "x" * 5000]
words = st.one_of(st.sampled_from(NASTY), st.text(max_size=8))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.binary(max_size=4), words),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["role", "content", "from", "value", "type", "text", "tool_calls"]), inner),
        st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": inner}),
        st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt"]), "value": inner}),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", list(formats.readers()))
def test_any_row_is_a_conversation_or_unusable_with_a_reason(name, data):
    reader = formats.get(name)
    needed, optional = reader.COLUMNS, {"input", "system", "id", "source"} - reader.COLUMNS
    row = data.draw(st.fixed_dictionaries(dict.fromkeys(needed, values), optional=dict.fromkeys(optional, values)))
    try:
        messages = reader.read(row)
    except UnusableRow as error:
        assert error.reason.isidentifier() and error.detail
        return
    assert messages and all(isinstance(m, Message) and m.role in ROLES for m in messages)
    assert all(m.content.encode() is not None for m in messages)
    assert any(m.role == "assistant" and (m.content.strip() or m.fields.get("tool_calls")) for m in messages)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.dictionaries(st.sampled_from(["id", "source", "prompt", "response"]), values), max_size=4))
def test_any_rows_get_ids_and_can_be_written(tmp_path, rows):
    config = DatasetConfig(path="made", format="prompt_response", rows=[{"prompt": "a", "response": "b"}, *rows])
    found = load([config])
    ids = [row.id for row in (*found.samples, *found.drops)]
    assert len(set(ids)) == len(ids) == len(rows) + 1 and all(row_id.encode() for row_id in ids)
    encoded, drops = encode(found.samples, make.chatml_tokenizer(), 10_000)
    assert len(encoded) + len(drops) == len(found.samples)
    folder = RunFolder(tmp_path)
    folder.write_jsonl("rows.jsonl", (row.row for row in (*found.samples, *found.drops)))
    assert len(folder.read_jsonl("rows.jsonl")) == len(rows) + 1


def break_bytes(chance, content):
    """The content with up to four bytes changed, perhaps truncated."""
    broken = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        broken[chance.randrange(len(broken))] = chance.randrange(256)
    cut = chance.randrange(len(broken))
    return bytes(broken[:cut] if chance.random() < 0.2 else broken)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), noise=st.one_of(st.none(), st.binary(max_size=200)))
@pytest.mark.parametrize("suffix", WRITERS)
def test_any_damaged_file_gives_rows_or_a_one_line_error(tmp_path, suffix, seed, noise):
    intact, path = tmp_path / f"intact.{suffix}", tmp_path / f"rows.{suffix}"
    WRITERS[suffix](intact)
    path.write_bytes(break_bytes(random.Random(seed), intact.read_bytes()) if noise is None else noise)
    try:
        assert all(isinstance(row, dict) for _, row in read_rows(DatasetConfig(path=str(path))))
    except UserError as error:
        assert str(path) in str(error) and str(error).isprintable() and len(str(error)) <= 1000


def test_every_file_type_is_tested():
    assert {f".{suffix}" for suffix in WRITERS} == set(FILE_TYPES)


@pytest.mark.parametrize("depth", [50, 90, 200, 900, 990, 3000, 100_000])
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_a_nested_row_can_be_written_or_is_refused(tmp_path, suffix, depth):
    path = tmp_path / f"rows.{suffix}"
    row = '{"prompt": "a", "response": "b", "x": ' + "[" * depth + "]" * depth + "}"
    path.write_text(row if suffix == "jsonl" else f"[{row}]")
    config = DatasetConfig(path=str(path))
    if depth > 100:
        with pytest.raises(UserError, match="nested too deeply"):
            load([config])
        return
    folder = RunFolder(tmp_path)
    folder.write_jsonl("again.jsonl", (s.row for s in load([config]).samples))
    assert folder.read_jsonl("again.jsonl") == [json.loads(row)]


@pytest.mark.parametrize("suffix", WRITERS)
def test_rows_of_a_megabyte_are_read_and_errors_about_them_are_short(tmp_path, suffix):
    path, rows = tmp_path / f"rows.{suffix}", [{"prompt": "x" * 2**20, "response": "y" * 2**20, "z" * 2**20: "1"}]
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == "arrow":
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(path, table.schema) as sink:
            sink.write_table(table)
    elif suffix in ("csv", "tsv"):
        mark = "," if suffix == "csv" else "\t"
        path.write_text("\n".join(mark.join(cells) for cells in (rows[0].keys(), rows[0].values())) + "\n")
    else:
        path.write_text(json.dumps(rows if suffix == "json" else rows[0]) + "\n")
    config = DatasetConfig(path=str(path))
    (sample,) = load([config]).samples
    assert len(sample.prompt) == len(sample.response) == 2**20
    if suffix == "jsonl":  # the same tokens from any file, in seconds
        encoded, _ = encode([sample], make.chatml_tokenizer(), 64)
        assert len(encoded) == 0  # a prompt of a megabyte leaves no room for the response
    with pytest.raises(UserError) as caught:
        load([config.model_copy(update={"columns": {"prompt": "nowhere"}})])
    assert len(str(caught.value)) <= 1000 and str(path) in str(caught.value)


def test_numbers_beyond_the_range_of_floats(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "response": "b", "x": [1e999, -1e999, NaN, 1e-999, ' + "9" * 4000 + "]}\n")
    (sample,) = load([DatasetConfig(path=str(path))]).samples
    folder = RunFolder(tmp_path)
    folder.write_jsonl("again.jsonl", [sample.row])
    text = folder.path("again.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["x"] == [None, None, None, 0.0, int("9" * 4000)]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([0], pa.timestamp("us", "Nowhere/Land")),
        pa.array([2**62], pa.timestamp("s")),
        pa.array([2**30], pa.date32()),
        pa.array([2**62], pa.duration("s")),
        pa.StringArray.from_buffers(1, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe")),
    ],
    ids=["zone", "year", "date", "span", "utf8"],
)
def test_values_that_python_lacks_are_one_line(tmp_path, column):
    path = tmp_path / "rows.arrow"
    table = pa.table({"prompt": ["a"], "response": ["b"], "x": column})
    with pa.ipc.new_stream(path, table.schema) as sink:
        sink.write_table(table)
    with pytest.raises(UserError, match=r"rows\.arrow: cannot be read: "):
        load([DatasetConfig(path=str(path))])


# -- decompression bombs -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_limit(monkeypatch):
    """A limit of one megabyte, so that the bombs are small."""
    monkeypatch.setattr(size_limits, "MIN_LIMIT", 2**20)


def zeros(n=2**23):
    return pa.table({"prompt": ["0" * n], "response": ["b"]})


def write_ipc(path, table, make_sink=pa.ipc.new_file, compression="zstd"):
    with make_sink(path, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as sink:
        sink.write_table(table)
    return path


def bombs(folder):
    """Files of every kind that grow a thousandfold."""
    repeated = pa.table({"prompt": ["a" * 4000] * 4000, "response": ["b"] * 4000})
    encoded = pa.array(["a" * 4000]).dictionary_encode().take(pa.array([0] * 4000))
    runs = pa.RunEndEncodedArray.from_arrays([2**16], ["a" * 4000])
    views = pa.array(["a" * 4000] * 4000, pa.string_view())
    pq.write_table(zeros(), folder / "pages.parquet", compression="zstd")
    pq.write_table(repeated, folder / "dictionary.parquet", compression="none")
    pq.write_table(pa.table({"x": pa.nulls(2**20)}), folder / "empty.parquet")
    write_ipc(folder / "file.arrow", zeros())
    write_ipc(folder / "stream.arrow", zeros(), pa.ipc.new_stream)
    write_ipc(folder / "lz4.arrow", zeros(), compression="lz4")
    write_ipc(folder / "dictionary.arrow", pa.table({"prompt": encoded}), compression=None)
    write_ipc(folder / "runs.arrow", pa.table({"prompt": runs}), compression=None)
    write_ipc(folder / "views.arrow", pa.table({"prompt": views}))
    write_ipc(folder / "nulls.arrow", pa.table({"x": pa.nulls(2**20)}), compression=None)
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"))
    (saved,) = (folder / "saved").glob("*.arrow")
    write_ipc(saved, zeros(), pa.ipc.new_stream)
    return sorted(path for path in folder.iterdir())


def test_bombs_are_refused(tmp_path, small_limit):
    found = bombs(tmp_path)
    assert len(found) == 11
    for path in found:
        with pytest.raises(UserError, match="GiB when it is decompressed") as caught:
            list(read_rows(DatasetConfig(path=str(path))))
        assert str(path) in str(caught.value)


def test_claims_are_refused_before_decompression(tmp_path, small_limit, monkeypatch):
    monkeypatch.setattr(pa.ipc, "open_stream", lambda *_: pytest.fail("opened"))
    monkeypatch.setattr(pa.ipc, "open_file", lambda *_: pytest.fail("opened"))
    monkeypatch.setattr(datasets, "load_from_disk", lambda *_: pytest.fail("opened"))
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("read"))
    bombs(tmp_path)
    for name in ("pages.parquet", "file.arrow", "stream.arrow", "lz4.arrow", "views.arrow", "saved"):
        with pytest.raises(UserError, match="when it is decompressed"):
            list(read_rows(DatasetConfig(path=str(tmp_path / name))))


def test_well_compressed_files_are_read(tmp_path, small_limit):
    text = [{"prompt": f"What is {i} + {i}?", "response": f"It is {2 * i}."} for i in range(20_000)]
    table = pa.Table.from_pylist(text)
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    write_ipc(tmp_path / "a.arrow", table)
    for name in ("a.parquet", "a.arrow"):
        assert sum(1 for _ in read_rows(DatasetConfig(path=str(tmp_path / name)))) == 20_000


def claimed(path):
    with pa.OSFile(str(path)) as content:
        content.seek(8 if content.read(6) == b"ARROW1" else 0)
        return size_limits.claimed_bytes(pa.ipc.MessageReader.open_stream(content))


@pytest.mark.parametrize("make_sink", [pa.ipc.new_file, pa.ipc.new_stream])
@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_the_claim_of_an_arrow_file_is_its_decompressed_size(tmp_path, make_sink, compression):
    texts = [f"What is {i} + {i}? " * 9 for i in range(5000)]
    columns = {
        "text": texts,
        "number": list(range(5000)),
        "list": [[1.5] * 9] * 5000,
        "struct": [{"a": "b" * 99}] * 5000,
    }
    table = pa.table({**columns, "missing": [None if i % 2 else texts[i] for i in range(5000)]})
    path = write_ipc(tmp_path / "rows.arrow", table, make_sink, compression)
    assert table.nbytes <= claimed(path) <= 1.1 * table.nbytes
    assert claimed(write_ipc(path, table, make_sink, None)) == 0


def test_a_buffer_that_several_columns_share_is_counted_for_each(tmp_path):
    table = pa.table({f"x{i}": np.zeros(1000) for i in range(3)})
    path = write_ipc(tmp_path / "rows.arrow", table, pa.ipc.new_stream)
    before = claimed(path)
    with pa.OSFile(str(path)) as content:
        _, batch = list(pa.ipc.MessageReader.open_stream(content))
    words = np.frombuffer(batch.metadata, "<i8", batch.metadata.size // 8)
    starts = [0, batch.body.size // 3, batch.body.size // 3 * 2]  # the columns are equal
    length = words[list(words).index(starts[2]) + 1]
    shared = words.copy()
    for i in range(len(words) - 1):
        if words[i] in starts and words[i + 1] == length:
            shared[i] = 0
    path.write_bytes(path.read_bytes().replace(words.tobytes(), shared.tobytes()))
    assert shared.tobytes() != words.tobytes()
    assert claimed(path) >= before
    assert [row for _, row in read_rows(DatasetConfig(path=str(path)))] == table.to_pylist()


@pytest.mark.parametrize(
    ("value", "bytes_"),
    [
        (pa.array(["abc", "d"]), 4),
        (pa.array(["abc", None], pa.string_view()), 3),
        (pa.array(["abc", "d", "abc"]).dictionary_encode(), 7),
        (pa.array([["abc"], ["d"]]), 4),
        (pa.array([{"a": "abc", "b": "d"}]), 4),
        (pa.array([b"abcd"], pa.binary(4)), 4),
    ],
)
def test_values_weigh_at_least_as_much_as_their_texts(value, bytes_):
    batch = pa.record_batch([value], names=["x"])
    assert bytes_ <= size_limits.weigh(batch) <= bytes_ + (size_limits.ROW_BYTES + 16) * len(value) + 16


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_text_is_refused_when_it_has_grown_too_large(tmp_path, small_limit, suffix):
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(COMPRESS[suffix](b'{"a": 1}\n' + b" " * 2**23))
    with pytest.raises(UserError, match=r"rows\.jsonl\.\w+: grows to more than"):
        list(read_rows(DatasetConfig(path=str(path))))


def test_the_files_of_a_folder_share_one_limit(tmp_path, small_limit):
    line = json.dumps({"a": "0" * 600_000}).encode()
    for i in range(2):
        (tmp_path / f"{i}.jsonl.gz").write_bytes(gzip.compress(line))
    assert len(list(read_rows(DatasetConfig(path=str(tmp_path / "1.jsonl.gz"))))) == 1
    with pytest.raises(UserError, match="grows to more than"):
        list(read_rows(DatasetConfig(path=str(tmp_path))))


@pytest.mark.parametrize("name", ["rows.parquet.gz", "rows.json.zip", "rows.xz", "rows.tar", "rows.tar.gz"])
def test_archives_and_what_is_compressed_twice_are_not_read(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x1f\x8b" + bytes(1000))
    with pytest.raises(UserError, match=r"are not read|decompress it first|a compressed file is named as in"):
        list(read_rows(DatasetConfig(path=str(tmp_path / name))))


# -- paths and pickles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd", "a/../../secret.arrow", 7, None])
def test_a_saved_folder_cannot_name_files_outside_it(tmp_path, name):
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "other"))
    (other,) = (tmp_path / "other").glob("*.arrow")
    other.rename(tmp_path / "secret.arrow")
    listing = tmp_path / "saved" / "state.json"
    state = json.loads(listing.read_text())
    listing.write_text(json.dumps(state | {"_data_files": [{"filename": name}]}))
    with pytest.raises(UserError, match=r"state\.json: names .* not a file of this folder"):
        list(read_rows(DatasetConfig(path=str(tmp_path / "saved"))))


def test_a_dictionary_of_splits_cannot_name_folders_outside_it(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "other"))
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["../other"]}')
    with pytest.raises(UserError, match="not a file of this folder"):
        list(read_rows(DatasetConfig(path=str(tmp_path / "saved"), split="../other")))


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 5000, '{"_data_files": 3}', '{"features": 7, "splits": 1}'])
def test_damaged_json_in_a_saved_folder_is_one_line(tmp_path, name, content):
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / name).write_text(content)
    try:
        list(read_rows(DatasetConfig(path=str(tmp_path / "saved"))))
    except UserError as error:
        assert str(tmp_path) in str(error) and str(error).isprintable()


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_pickle_in_a_schema_is_not_loaded(tmp_path, suffix):
    marker = tmp_path / "ran"
    pickle = b"cpathlib\nPath\n(V" + str(marker).encode() + b"\ntRp0\n0g0\n."
    attack = b"cbuiltins\nexec\n(Vopen(" + repr(str(marker)).encode() + b", 'w')\ntR."
    for content in (pickle, attack):
        kind = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": content}
        fields = [pa.field("prompt", pa.string()), pa.field("response", pa.string())]
        schema = pa.schema([*fields, pa.field("x", pa.binary(), metadata=kind)])
        table, path = pa.table([["a"], ["b"], [b"c"]], schema=schema), tmp_path / f"rows.{suffix}"
        if suffix == "parquet":
            pq.write_table(table, path)
        else:
            write_ipc(path, table, compression=None)
        load([DatasetConfig(path=str(path))])
        assert not marker.exists()
