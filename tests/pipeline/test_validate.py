"""Reading a run folder that is damaged, or comes from somebody else."""

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sealtune.cli.arguments import load_config
from sealtune.core.checkpoints import Checkpoint, Checkpoints, seal
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.core.files import hash_file
from sealtune.core.types import Response, Scores
from sealtune.evaluation.answer_cache import AnswerCache
from sealtune.evaluation.ask import ask, cache_key
from sealtune.evaluation.judge_protocol import Question, Reply
from sealtune.models.load import load_model, load_tokenizer
from sealtune.pipeline.folder import RunFolder
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage
from sealtune.tuning.saved_model import load_tuned

ENTRY = {"inputs": {"seed": 1}, "outputs": {}, "seconds": 1.0}


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def with_scores(folder, **columns):
    """The folder with the scores of two rows; ``columns`` replaces columns of the table, or removes them (None)."""
    one = np.ones(2)
    scores = Scores(("a", "b"), ("s", "s"), one, one, one, one, one.astype(np.int64))
    folder.write_scores(scores, np.array([0, 3]))
    path = folder.path("rank/scores.parquet")
    table = pq.read_table(path)
    assert table["row"].to_pylist() == [0, 3]
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.remove_column(place) if values is None else table.set_column(place, name, values)
    pq.write_table(table, path)
    return folder


MANIFESTS = [b"", b"[]", b"3", b"{", b"\xff", b"[" * 5000, b"9" * 5000, b'{"stages": []}', b'{"stages": {"rank": 1}}']
MANIFESTS += [b'{"stages": {"rank": {}}}', b'{"config": []}']
CHANGES = [{"outputs": ["a"]}, {"outputs": {"a": 1}}, {"inputs": 1}, {"seconds": "long"}]
MANIFESTS += [json.dumps({"stages": {"rank": ENTRY | change}}).encode() for change in CHANGES]


@pytest.mark.parametrize("content", MANIFESTS)
def test_an_invalid_manifest_is_one_line(folder, content):
    folder.prepare()
    folder.path("manifest.json").write_bytes(content)
    with pytest.raises(UserError, match=r"manifest\.json: not (valid JSON|a manifest)") as raised:
        folder.is_done("rank", {})
    assert str(raised.value).isprintable()
    with pytest.raises(UserError, match=r"manifest\.json"):
        load_config([], out=str(folder.root))


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "/etc/passwd", "x" * 300, "a/" * 3000, "a\0b"])
def test_no_name_in_a_manifest_escapes_the_folder(folder, tmp_path, name):
    (tmp_path / "secret").write_text("x")
    folder.prepare()
    folder.write_json("manifest.json", {"stages": {"rank": ENTRY | {"outputs": {name: "0" * 64}}}})
    other = RunFolder(tmp_path / "other")
    for action in (
        lambda: folder.is_done("rank", {"seed": 1}),
        lambda: folder.outputs_of("rank"),
        lambda: other.adopt("rank", {"seed": 1}, folder, {}),
        lambda: folder.write_text(name, "overwritten"),
        lambda: folder.read_json(name),
    ):
        with pytest.raises(UserError, match="no file of this folder"):
            action()
    assert (tmp_path / "secret").read_text() == "x"


def test_links_are_not_followed_when_leftovers_are_removed(folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("x")
    folder.path("rank").mkdir(parents=True)
    folder.path("rank/.a.part").symlink_to(tmp_path / "mine")
    folder.path("rank/checkpoint-1").symlink_to(tmp_path / "mine")
    folder.prepare()
    Checkpoints(folder, "rank").remove()
    assert (tmp_path / "mine" / "file").read_text() == "x"


@pytest.mark.parametrize(
    "columns",
    [
        {"score": None},
        {"id": pa.array(["a", None])},
        {"id": pa.array(["a", "a"])},
        {"id": pa.array([1, 2])},
        {"score": pa.array(["high", "low"])},
        {"score": pa.array([1.0, float("nan")])},
        {"visits": pa.array([1.0, float("inf")])},
        {"weight": pa.array([[1.0], [1.0, 2.0]])},
    ],
)
def test_invalid_scores_are_one_line(folder, columns):
    with pytest.raises(UserError, match=r"scores\.parquet: not a file of scores"):
        with_scores(folder, **columns).read_scores()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_damaged_scores_and_selectors_are_read_or_refused(folder, seed):
    for leftover in ("rank/scores.parquet", "rank/selector.safetensors"):
        folder.path(leftover).unlink(missing_ok=True)
    with_scores(folder)
    folder.write_selector(replace(folder.read_scores(), selector={"safe_probe_logit": np.ones(3)}), "probe", "softmax")
    chance = random.Random(seed)
    for name in ("rank/scores.parquet", "rank/selector.safetensors"):
        content = bytearray(folder.path(name).read_bytes())
        for _ in range(3):
            content[chance.randrange(len(content))] = chance.randrange(256)
        folder.path(name).write_bytes(content[: chance.randrange(len(content)) if seed % 3 == 0 else len(content)])
    for read in (folder.read_scores, folder.read_selector):
        try:
            read()
        except UserError as error:
            assert str(folder.root) in str(error) and str(error).isprintable()


@pytest.mark.parametrize("line", ["{}", "[]", "3", "{", '{"id": 1}', '{"id": "a", "extra": 2}'])
def test_an_invalid_record_is_named(folder, line):
    folder.write_text("evaluate/responses.jsonl", line + "\n")
    with pytest.raises(UserError, match=r"responses\.jsonl, line 1: "):
        folder.read_records("evaluate/responses.jsonl", Response)


@pytest.mark.parametrize("content", ["{}", "[1]", '{"a": "b"}', "3"])
def test_invalid_kept_ids_are_refused(folder, content):
    folder.write_text("select/kept_ids.json", content)
    with pytest.raises(UserError, match="not a list of ids"):
        folder.kept_ids()


@pytest.mark.parametrize("change", [{"step": "1"}, {"inputs": []}, {"records": 1}, {"sha256": None}, {"step": None}])
def test_an_invalid_checkpoint_is_skipped(folder, change):
    Checkpoints(folder, "rank").write(Checkpoint(1, {"x": torch.zeros(1)}, []), {"seed": 1})
    path = folder.path("rank/checkpoint-1/checkpoint.json")
    path.write_text(json.dumps(seal(json.loads(path.read_text()) | change)))
    assert Checkpoints(folder, "rank").read(True, {"seed": 1}) is None


def test_a_checkpoint_with_valid_hashes_and_invalid_tensors_is_refused(folder):
    Checkpoints(folder, "rank").write(Checkpoint(1, {"x": torch.zeros(1)}, []), {"seed": 1})
    place = folder.path("rank/checkpoint-1")
    (place / "state.safetensors").write_bytes(b"no tensors")
    about = json.loads((place / "checkpoint.json").read_text())
    about["sha256"] = hash_file(place / "state.safetensors")
    (place / "checkpoint.json").write_text(json.dumps(seal(about)))
    with pytest.raises(UserError, match="not a checkpoint of sealtune"):
        Checkpoints(folder, "rank").read(True, {"seed": 1})


@pytest.mark.parametrize("record", [{}, {"text": 1, "finish": "stop", "refusal": ""}, {"text": "a"}])
def test_an_invalid_cached_answer_is_asked_for_again(tmp_path, record):
    question = Question("j", "w", ({"role": "user", "content": "q"},))
    path = tmp_path / "cache.jsonl"
    path.write_text(json.dumps(record | {"key": cache_key(question, {})}) + "\n")

    class Server:
        identity = changes = {}  # noqa: RUF012

        def send(self, questions, deliver):
            for key in questions:
                deliver(key, Reply("again"))

    assert ask([question], Server(), AnswerCache(path), lambda *_, **__: None) == [Reply("again")]


# -- pickles -----------------------------------------------------------------------------------------------------------


def test_the_bomb_runs_when_unpickled(tmp_path):
    torch.save(Bomb(tmp_path / "ran"), tmp_path / "bomb.bin")
    torch.load(tmp_path / "bomb.bin", weights_only=False)
    assert (tmp_path / "ran").exists()


def test_a_pickled_model_is_refused(tmp_path, tiny_folder):
    shutil.copytree(tiny_folder, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({"model.embed_tokens.weight": Bomb(tmp_path / "ran")}, tmp_path / "model" / "pytorch_model.bin")
    config = build_config({"model_name_or_path": str(tmp_path / "model"), "dtype": "float32"})
    load_tokenizer(config)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(config)
    listing = tmp_path / "model" / "model.safetensors.index.json"
    for name in ("pytorch_model.bin", "../model/other.safetensors", "/etc/x.safetensors"):
        listing.write_text(json.dumps({"metadata": {}, "weight_map": {"model.embed_tokens.weight": name}}))
        with pytest.raises(UserError, match="not a safetensors file in its folder"):
            load_model(config)
    assert not (tmp_path / "ran").exists()


def test_an_adapter_is_read_from_safetensors_only(tmp_path, tiny_folder):
    from peft import LoraConfig, get_peft_model

    config = build_config({"model_name_or_path": str(tiny_folder), "dtype": "float32"})
    place = tmp_path / "tune"
    get_peft_model(load_model(config), LoraConfig(target_modules=["q_proj"])).save_pretrained(str(place))
    load_tuned(load_model(config), place, config)
    weights = place / "adapter_model.safetensors"
    save_file({"x": torch.zeros(1)}, weights)
    weights.write_bytes(weights.read_bytes()[:4])
    with pytest.raises(UserError, match="the adapter cannot be loaded"):
        load_tuned(load_model(config), place, config)
    weights.unlink()
    torch.save({"x": Bomb(tmp_path / "ran")}, place / "adapter_model.bin")
    with pytest.raises(UserError, match="from safetensors alone"):
        load_tuned(load_model(config), place, config)
    assert not (tmp_path / "ran").exists()


def test_pickled_tokens_are_not_loaded(project, tmp_path):
    run = Run(build_config(project))
    before = run.inputs.load_candidates().encoded.tokens.tolist()
    place = run.folder.path("tokens/candidates/tokens.npy")
    np.save(place, np.array([Bomb(tmp_path / "ran")], dtype=object), allow_pickle=True)
    again = Run(build_config(project)).inputs.load_candidates()
    assert again.encoded.tokens.tolist() == before
    assert not (tmp_path / "ran").exists()


# -- a full run --------------------------------------------------------------------------------------------------------


def test_ids_never_become_file_names_and_a_run_writes_no_pickle(project, tmp_path):
    names = ["../../evil", "/evil", "a/b/../../evil", "rank/scores.parquet", "CON", "\x1b[2J", "\u202e", "-rf *"]
    names.append("x" * 5000)
    chance = random.Random(0)
    rows = [{"id": name, "source": name, "prompt": f"red {chance.random()}", "response": "blue fox"} for name in names]
    for file in ("candidates.jsonl", "safe.jsonl", "held.jsonl", "ask.jsonl"):
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    project["rank"]["num_train_epochs"] = 1
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    run = Run(build_config(project | {"label_column": None}))
    for stage in ("rank", "select", "tune", "evaluate", "report"):
        run_stage(run, stage)
    made = [path for path in tmp_path.rglob("*") if path.is_file() and path not in before]
    assert made and all(path.is_relative_to(tmp_path / "out") for path in made)
    assert not [path for path in made if "evil" in path.name or "x" * 20 in path.name]
    for path in made:
        assert path.suffix not in (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
        assert path.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK"), path
    dropped = {row["sealtune"]["id"] for row in run.folder.read_jsonl("select/dropped.jsonl")}
    assert {*run.folder.kept_ids(), *dropped} == {*names}


def test_a_report_refuses_files_that_were_changed(project):
    run = Run(build_config(project | {"rank": {"method": "loss"}}))
    for stage in ("rank", "select"):
        run_stage(run, stage)
    run.folder.write_text("select/dropped.jsonl", '{"sealtune": 3}\n')
    with pytest.raises(UserError, match=r"dropped\.jsonl: changed or missing since select"):
        run_stage(run, "report")
