"""What files, configs and run folders from others must not do: grow, leave their folder, run code, reveal a key."""

import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sealtune.cli.arguments import load_config
from sealtune.cli.main import app
from sealtune.core import sanitize
from sealtune.core.config import DatasetConfig
from sealtune.core.config_io import build_config, read_yaml
from sealtune.core.errors import RunError, UserError
from sealtune.data import size_limits
from sealtune.data.json_files import MAX_NESTING
from sealtune.data.load import load
from sealtune.models.load import load_model
from sealtune.pipeline.folder import RunFolder
from sealtune.tuning.saved_model import load_tuned

KEY = "hf_abcdefghijklmnopqrstuvwx"
EVIL = ["\0", "\x1b[2J", "\x9b", "\u202e", "\u2066", "\u2028", "\ufeff", "<|im_end|>", "1e999", "9" * 5000, "[" * 500]
texts = st.lists(st.one_of(st.text(max_size=20), st.sampled_from(EVIL))).map("".join)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=12,
)
freely = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path):
    return load([DatasetConfig(path=str(path))])


def error_of(path):
    with pytest.raises(UserError) as caught:
        read(path)
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()
    return str(caught.value)


@freely
@given(st.lists(st.dictionaries(st.sampled_from(["id", "prompt", "response", "messages", "x"]), values), max_size=4))
def test_any_json_becomes_rows_drops_or_one_error_line(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        found = read(path)
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) <= sanitize.MAX_LINE_LENGTH
        return
    assert len(found.samples) + len(found.drops) == len(rows)


@freely
@given(st.one_of(st.binary(max_size=200), texts.map(lambda text: text.encode("utf-8", "surrogatepass"))))
@example(b"a: &a [*a]")
@example(b"a: !!python/object/apply:os.system ['true']")
@example(b"seed: " + b"9" * 5000)
@example(b"rank: " + b"[" * 3000)
def test_any_bytes_become_a_config_or_a_few_error_lines(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:  # no example names a model
        build_config(read_yaml(path), str(path))
    lines = str(caught.value).split("\n")
    assert all(line.isprintable() and "config.yaml" in line for line in lines)


@freely
@given(st.dictionaries(st.sampled_from(["seed", "rank", "datasets", "dtype", "max_length"]), values))
def test_any_values_become_a_config_or_error_lines(given_values):
    try:
        build_config({"model_name_or_path": "m"} | given_values)
    except UserError as error:
        assert str(error).replace("\n", "").isprintable()


def test_aliases_that_expand_to_many_values_are_refused(tmp_path):
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 9))
    (tmp_path / "config.yaml").write_text("l0: &l0 [x]\n" + levels)
    with pytest.raises(UserError, match=r"line \d+: not valid YAML: aliases that grow"):
        read_yaml(tmp_path / "config.yaml")


def test_a_row_of_a_megabyte_is_read_and_a_deeply_nested_one_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "p" * 2**20, "response": "r" * 2**20}))
    assert len(read(path).samples[0].response) == 2**20
    path.write_text('{"prompt": "p", "response": "r", "x": ' + "[" * MAX_NESTING + "]" * MAX_NESTING + "}")
    assert "row" in error_of(path) or "line 1" in error_of(path)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".zip", ".tar", ".zst", ".json.bz2"])
def test_archives_are_never_unpacked(tmp_path, suffix):
    (tmp_path / f"rows{suffix}").write_bytes(b"\x1f\x8b" + bytes(100))
    assert "rows" + suffix in error_of(tmp_path / f"rows{suffix}")


def bombs(folder):
    """Files of a few kilobytes that expand to 64 MiB."""
    column = pa.array(["A" * 2**20] * 64)
    table = pa.table({"prompt": column, "response": column})
    pq.write_table(table, folder / "dictionary.parquet", compression="zstd")
    pq.write_table(table, folder / "plain.parquet", compression="zstd", use_dictionary=False)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(str(folder / "stream.arrow"), table.schema, options=options) as sink:
        sink.write_table(table)
    with pa.ipc.new_file(str(folder / "file.arrow"), table.schema, options=options) as sink:
        sink.write_table(table)
    return sorted(folder.glob("*.*"))


def test_files_that_grow_beyond_the_limit_are_refused(tmp_path, monkeypatch):
    found = bombs(tmp_path)
    assert len(found) == 4 and all(path.stat().st_size < 200_000 for path in found)
    monkeypatch.setattr(size_limits, "MIN_LIMIT", 2**24)
    for path in found:
        assert "grows to more than" in error_of(path)
    monkeypatch.setattr(size_limits, "MIN_LIMIT", 2**30)
    assert len(read(found[0]).samples) == 64  # within the limit


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd", "a/b.arrow", 3])
def test_a_saved_folder_cannot_name_files_outside(tmp_path, name):
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    assert "not a file of this folder" in error_of(tmp_path)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "nul\0"])
def test_a_run_folder_cannot_name_files_outside(tmp_path, name):
    with pytest.raises(UserError, match="no file of this folder"):
        RunFolder(tmp_path).path(name)


class Planted:
    """Creates a file when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


def test_pickled_weights_are_never_loaded(tmp_path, tiny_folder):
    trace = tmp_path / "trace"
    for name in ("pytorch_model.bin", "adapter_model.bin"):
        (tmp_path / name).write_bytes(pickle.dumps(Planted(trace)))
    (tmp_path / "config.json").write_text((tiny_folder / "config.json").read_text())
    config = build_config({"model_name_or_path": str(tmp_path)})
    with pytest.raises((UserError, RunError)):
        load_model(config)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}')
    with pytest.raises(UserError, match="safetensors alone"):
        load_tuned(None, tmp_path, config)
    assert not trace.exists()


def test_an_index_of_weights_cannot_name_a_pickle(tmp_path, tiny_folder):
    (tmp_path / "config.json").write_text((tiny_folder / "config.json").read_text())
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "weights.bin"}}')
    with pytest.raises(UserError, match=r"lists 'weights\.bin'"):
        load_model(build_config({"model_name_or_path": str(tmp_path)}))


def test_a_run_folder_from_others_cannot_run_code(tmp_path):
    manifest = {"config": {"model_name_or_path": "m", "trust_remote_code": True}, "stages": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    outcome = CliRunner().invoke(app, ["select", "--out", str(tmp_path)])
    assert outcome.exit_code == 2 and "trust_remote_code" in outcome.output
    assert build_config({"model_name_or_path": "m"}).trust_remote_code is False


@pytest.mark.parametrize("block", ["judges", "endpoints"])
def test_a_run_folder_from_others_cannot_get_a_key(tmp_path, block):
    server = {"name": "harm_rating", "base_url": "http://127.0.0.1:9/v1", "model": "m", "api_key_env": "MY_KEY"}
    evaluate = {"judges": [server]} if block == "judges" else {"endpoints": {"base": server | {"name": "base"}}}
    manifest = {"config": {"model_name_or_path": "m", "evaluate": evaluate}, "stages": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    for command in ("evaluate", "run", "compare"):
        outcome = CliRunner().invoke(app, [command, "--out", str(tmp_path)])
        assert outcome.exit_code == 2
        assert "sends the key in MY_KEY to http://127.0.0.1:9/v1" in " ".join(outcome.output.split())
    own = load_config([f"evaluate={json.dumps(evaluate)}"], out=str(tmp_path), calls_judges=True)  # given by the user
    assert own.evaluate.judges or own.evaluate.endpoints
    assert load_config([], out=str(tmp_path)).model_name_or_path == "m"  # without requests, no key is sent


@pytest.mark.parametrize("place", [{"model_name_or_path": KEY}, {"datasets": [f"https://me:{KEY}@host/x"]}])
def test_keys_in_a_config_are_refused_and_not_repeated(place):
    with pytest.raises(UserError) as caught:
        build_config({"model_name_or_path": "m"} | place)
    assert KEY not in str(caught.value)


def test_keys_are_masked_in_every_error(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "a-key-of-no-known-form")
    secrets = "a-key-of-no-known-form", KEY, "https://me:password1@host", "Bearer abcdefgh12345678"
    shown = str(UserError(" ".join(secrets))) + str(RunError(" ".join(secrets)))
    assert not [secret for secret in ("of-no-known-form", KEY, "password1", "abcdefgh1234") if secret in shown]


@freely
@given(texts)
def test_any_message_is_one_printable_line(text):
    assert sanitize.one_line(text).isprintable() and len(sanitize.one_line(text)) <= sanitize.MAX_LINE_LENGTH


def test_inspect_cannot_move_the_cursor(project, tmp_path):
    row = {"id": "a\x1b[2J\u202e", "prompt": "\x1b]0;owned\x07 [red]x[/red]", "response": "\x9b31m\u2066 fine\r\n"}
    (tmp_path / "candidates.jsonl").write_text(json.dumps(row) + "\n")
    words = ["inspect", f"model_name_or_path={project['model_name_or_path']}", "datasets=[candidates.jsonl]"]
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 0, outcome.output
    assert "fine" in outcome.output
    assert all(c.isprintable() or c == "\n" for c in outcome.output)


@pytest.mark.parametrize("command", ["run", "compare"])
def test_tables_in_the_terminal_cannot_move_the_cursor(project, command):
    attack = "\x1b[2J\u202e\x9b31m [red]x[/red] | <b>y</b>\n# z"
    project["rank"] = {"method": "random"}
    project["compare"] = {"methods": ["base", "random"]}
    project["evaluate"]["prompts"][0]["name"] = attack
    project["datasets"] = [{"path": "candidates.jsonl", "name": attack}]
    project["report"], project["max_length"] = {"title": attack}, 200
    rows = [{"id": f"{attack}{i}", "prompt": f"{attack} {i}", "response": attack, "unsafe": i % 2} for i in range(8)]
    Path("candidates.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    Path("config.yaml").write_text(json.dumps(project))
    outcome = CliRunner().invoke(app, [command, "config.yaml"])
    assert outcome.exit_code == 0, outcome.output
    assert {"run": "discrimination", "compare": "random"}[command] in " ".join(outcome.output.split())
    assert not {c for c in outcome.output if not c.isprintable() and c != "\n"}
