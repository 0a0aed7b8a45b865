import json

import numpy as np
import pytest
import torch

from sealtune.core.checkpoints import Checkpoint, Checkpoints
from sealtune.core.errors import UserError
from sealtune.core.types import Scores
from sealtune.pipeline.folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def names(folder):
    return sorted(str(p.relative_to(folder.root)) for p in folder.root.rglob("*") if p.is_file())


def test_a_file_is_written_completely_or_not_at_all(folder):
    folder.write_text("a.txt", "first")
    with pytest.raises(RuntimeError), folder.atomic_file("a.txt") as scratch:
        scratch.write_text("half")
        raise RuntimeError
    assert names(folder) == ["a.txt"]
    assert folder.path("a.txt").read_text() == "first"


def test_a_folder_is_written_completely_or_not_at_all(folder):
    with pytest.raises(RuntimeError), folder.atomic_folder("tune") as scratch:
        (scratch / "x").write_text("half")
        raise RuntimeError
    assert names(folder) == []
    for content in ("one", "two"):
        with folder.atomic_folder("tune") as scratch:
            (scratch / "x").write_text(content)
    assert folder.path("tune/x").read_text() == "two"
    assert names(folder) == ["tune/x"]


def test_scores_survive_a_round_trip(folder):
    nan = np.array([np.nan, 1.0])
    scores = Scores(("a", "b"), ("s", "t"), np.array([1.5, -2]), np.ones(2), nan, nan, np.array([3, 0]))
    folder.write_scores(scores, np.array([0, 3]))
    back = folder.read_scores()
    assert (back.ids, back.source) == (scores.ids, scores.source)
    np.testing.assert_array_equal(back.score, scores.score)
    np.testing.assert_array_equal(back.loss, nan)
    assert back.visits.tolist() == [3, 0]


def test_missing_and_invalid_scores_are_refused(folder):
    with pytest.raises(UserError, match="run `sealtune rank` first"):
        folder.read_scores()
    folder.write_text("rank/scores.parquet", "not parquet")
    with pytest.raises(UserError, match="not a file of scores"):
        folder.read_scores()


def test_json_contains_no_nan_and_rows_survive(folder):
    folder.write_json("x.json", {"a": [float("nan"), np.float64(2.0)]})
    assert json.loads(folder.path("x.json").read_text(), parse_constant=pytest.fail) == {"a": [None, 2.0]}
    row = {"text": "line\u2028separator \ud800 <|im_end|>\n", "n": 1}
    folder.write_jsonl("rows.jsonl", [row, row])
    assert folder.read_jsonl("rows.jsonl") == [row, row]
    assert folder.path("rows.jsonl").read_text(encoding="utf-8").count("\n") == 2


def test_two_checkpoints_are_kept_and_the_newest_intact_one_is_read(folder):
    inputs, checkpoints = {"seed": 1, "rank": {"gamma": 0.1}}, Checkpoints(folder, "rank")
    for step in (2, 4, 10):
        checkpoints.write(Checkpoint(step, {"x": torch.tensor([float(step)])}, [{"step": step}], {"lr": 0.1}), inputs)
    assert [p.name for p in checkpoints.folders()] == ["checkpoint-4", "checkpoint-10"]
    found = checkpoints.read(True, inputs)
    assert (found.step, found.state["x"].item(), found.records, found.rest) == (10, 10.0, [{"step": 10}], {"lr": 0.1})
    folder.path("rank/checkpoint-10/state.safetensors").write_bytes(b"torn")
    assert checkpoints.read(True, inputs).step == 4
    with pytest.raises(UserError, match="not a complete checkpoint"):
        checkpoints.read(str(folder.path("rank/checkpoint-10")), inputs)


def test_a_checkpoint_of_other_inputs_is_refused(folder):
    Checkpoints(folder, "rank").write(Checkpoint(2, {"x": torch.zeros(1)}, []), {"seed": 1, "model": "a"})
    with pytest.raises(UserError, match="another model;"):
        Checkpoints(folder, "rank").read(True, {"seed": 1, "model": "b"})


def test_a_named_checkpoint_applies_to_its_own_stage_only(folder):
    rank, tune = Checkpoints(folder, "rank"), Checkpoints(folder, "tune")
    rank.write(Checkpoint(2, {"x": torch.zeros(1)}, []), {"seed": 1})
    named = str(folder.path("rank/checkpoint-2"))
    assert rank.read(named, {"seed": 1}).step == 2
    assert tune.read(named, {"seed": 9}) is None
    tune.write(Checkpoint(4, {"x": torch.zeros(1)}, []), {"seed": 9})
    assert tune.read(named, {"seed": 9}).step == 4
    tune.remove()
    assert names(folder) == ["rank/checkpoint-2/checkpoint.json", "rank/checkpoint-2/state.safetensors"]


def test_a_named_checkpoint_of_a_finished_stage_is_missed_by_that_stage_only(folder):
    rank, tune = Checkpoints(folder, "rank"), Checkpoints(folder, "tune")
    rank.write(Checkpoint(2, {"x": torch.zeros(1)}, []), {"seed": 1})
    named = str(folder.path("rank/checkpoint-2"))
    rank.remove()
    assert tune.read(named, {"seed": 9}) is None
    with pytest.raises(UserError, match="not a complete checkpoint"):
        rank.read(named, {"seed": 1})


def test_checkpoints_after_a_restart_replace_later_ones(folder, capsys):
    checkpoints = Checkpoints(folder, "rank")
    for step in (98, 100):
        checkpoints.write(Checkpoint(step, {"x": torch.zeros(1)}, []), {})
        folder.path(f"rank/checkpoint-{step}/state.safetensors").write_bytes(b"damaged")
    assert checkpoints.read(True, {}) is None
    assert capsys.readouterr().err.count("damaged; skipped") == 2
    for step in (2, 4, 6):
        checkpoints.write(Checkpoint(step, {"x": torch.zeros(1)}, []), {})
    assert [p.name for p in checkpoints.folders()] == ["checkpoint-4", "checkpoint-6"]


def test_the_metadata_of_a_checkpoint_is_hashed_too(folder):
    checkpoints = Checkpoints(folder, "rank")
    checkpoints.write(Checkpoint(2, {"x": torch.zeros(1)}, [{"loss": float("nan")}]), {})
    assert checkpoints.read(True, {}).step == 2
    path = folder.path("rank/checkpoint-2/checkpoint.json")
    path.write_text(path.read_text().replace('"step": 2', '"step": 3'))
    assert checkpoints.read(True, {}) is None


@pytest.mark.parametrize("content", ["[]", "{}", "nonsense", '{"sha256": 1}'])
def test_an_invalid_checkpoint_is_skipped(folder, content):
    checkpoints = Checkpoints(folder, "rank")
    for step in (2, 4):
        checkpoints.write(Checkpoint(step, {"x": torch.zeros(1)}, []), {})
    folder.path("rank/checkpoint-4/checkpoint.json").write_text(content)
    assert checkpoints.read(True, {}).step == 2


def test_a_stage_is_done_while_inputs_and_outputs_are_unchanged(folder):
    folder.write_text("rank/a", "x")
    folder.finish_stage("rank", {"seed": 1}, ["rank/a"], {"seconds": 1.0}, {"seed": 1})
    assert folder.is_done("rank", {"seed": 1})
    assert not folder.is_done("rank", {"seed": 2})
    folder.write_text("rank/a", "y")
    assert not folder.is_done("rank", {"seed": 1})
    with pytest.raises(UserError, match="changed or missing since rank was run"):
        folder.outputs_of("rank")
    folder.path("rank/a").unlink()
    assert not folder.is_done("rank", {"seed": 1})
    with pytest.raises(UserError, match="run `sealtune select"):
        folder.outputs_of("select")


def test_rerunning_a_stage_invalidates_later_ones(folder):
    for stage in ("rank", "select", "tune"):
        folder.write_text(f"{stage}/a", "x")
        folder.finish_stage(stage, {}, [f"{stage}/a"], {"seconds": 1.0}, {})
    folder.finish_stage("select", {}, ["select/a"], {"seconds": 1.0}, {})
    assert list(folder.manifest().stages) == ["rank", "select"]


def test_prepare_removes_leftovers_of_a_killed_run_and_refuses_a_file(folder, tmp_path):
    folder.write_text("rank/a", "x")
    folder.path("rank/.b.part").write_text("half")
    folder.path(".tune.x.part").mkdir()
    folder.prepare()
    assert names(folder) == ["rank/a"]
    assert not folder.path(".tune.x.part").exists()
    with pytest.raises(UserError, match=r"output_dir: .* cannot be written to"):
        RunFolder(folder.path("rank/a")).prepare()
