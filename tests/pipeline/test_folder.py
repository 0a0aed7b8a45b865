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


def test_a_file_appears_whole_or_not_at_all(folder):
    folder.write_text("a.txt", "first")
    with pytest.raises(RuntimeError), folder.whole_file("a.txt") as scratch:
        scratch.write_text("half")
        raise RuntimeError
    assert names(folder) == ["a.txt"]
    assert folder.path("a.txt").read_text() == "first"


def test_a_folder_appears_whole_or_not_at_all(folder):
    with pytest.raises(RuntimeError), folder.whole_folder("tune") as scratch:
        (scratch / "x").write_text("half")
        raise RuntimeError
    assert names(folder) == []
    for content in ("one", "two"):
        with folder.whole_folder("tune") as scratch:
            (scratch / "x").write_text(content)
    assert folder.path("tune/x").read_text() == "two"
    assert names(folder) == ["tune/x"]


def test_scores_come_back(folder):
    nan = np.array([np.nan, 1.0])
    scores = Scores(("a", "b"), ("s", "t"), np.array([1.5, -2]), np.ones(2), nan, nan, np.array([3, 0]))
    folder.write_scores(scores, np.array([0, 3]))
    back = folder.read_scores()
    assert (back.ids, back.source) == (scores.ids, scores.source)
    np.testing.assert_array_equal(back.score, scores.score)
    np.testing.assert_array_equal(back.loss, nan)
    assert back.visits.tolist() == [3, 0]


def test_missing_and_broken_scores_are_named(folder):
    with pytest.raises(UserError, match="run `sealtune rank` first"):
        folder.read_scores()
    folder.write_text("rank/scores.parquet", "not parquet")
    with pytest.raises(UserError, match="not a file of scores"):
        folder.read_scores()


def test_json_has_no_nan_and_rows_survive(folder):
    folder.write_json("x.json", {"a": [float("nan"), np.float64(2.0)]})
    assert json.loads(folder.path("x.json").read_text(), parse_constant=pytest.fail) == {"a": [None, 2.0]}
    row = {"text": "line\u2028separator \ud800 <|im_end|>\n", "n": 1}
    folder.write_jsonl("rows.jsonl", [row, row])
    assert folder.read_jsonl("rows.jsonl") == [row, row]
    assert folder.path("rows.jsonl").read_text(encoding="utf-8").count("\n") == 2


def test_the_last_two_checkpoints_are_kept_and_the_newest_whole_one_is_read(folder):
    inputs, checkpoints = {"seed": 1, "rank": {"gamma": 0.1}}, Checkpoints(folder, "rank")
    for step in (2, 4, 10):
        checkpoints.write(Checkpoint(step, {"x": torch.tensor([float(step)])}, [{"step": step}], {"lr": 0.1}), inputs)
    assert [p.name for p in checkpoints.folders()] == ["checkpoint-4", "checkpoint-10"]
    found = checkpoints.read(True, inputs)
    assert (found.step, found.state["x"].item(), found.records, found.rest) == (10, 10.0, [{"step": 10}], {"lr": 0.1})
    folder.path("rank/checkpoint-10/state.safetensors").write_bytes(b"torn")
    assert checkpoints.read(True, inputs).step == 4
    with pytest.raises(UserError, match="not a whole checkpoint"):
        checkpoints.read(str(folder.path("rank/checkpoint-10")), inputs)


def test_a_checkpoint_of_something_else_is_refused_by_name(folder):
    Checkpoints(folder, "rank").write(Checkpoint(2, {"x": torch.zeros(1)}, []), {"seed": 1, "model": "a"})
    with pytest.raises(UserError, match="another model;"):
        Checkpoints(folder, "rank").read(True, {"seed": 1, "model": "b"})


def test_a_checkpoint_that_is_named_serves_its_own_stage_alone(folder):
    rank, tune = Checkpoints(folder, "rank"), Checkpoints(folder, "tune")
    rank.write(Checkpoint(2, {"x": torch.zeros(1)}, []), {"seed": 1})
    named = str(folder.path("rank/checkpoint-2"))
    assert rank.read(named, {"seed": 1}).step == 2
    assert tune.read(named, {"seed": 9}) is None
    tune.write(Checkpoint(4, {"x": torch.zeros(1)}, []), {"seed": 9})
    assert tune.read(named, {"seed": 9}).step == 4
    tune.remove()
    assert names(folder) == ["rank/checkpoint-2/checkpoint.json", "rank/checkpoint-2/state.safetensors"]


def test_a_checkpoint_that_is_named_and_gone_since_its_stage_has_ended_is_missed_by_that_stage_alone(folder):
    rank, tune = Checkpoints(folder, "rank"), Checkpoints(folder, "tune")
    rank.write(Checkpoint(2, {"x": torch.zeros(1)}, []), {"seed": 1})
    named = str(folder.path("rank/checkpoint-2"))
    rank.remove()
    assert tune.read(named, {"seed": 9}) is None
    with pytest.raises(UserError, match="not a whole checkpoint"):
        rank.read(named, {"seed": 1})


def test_a_run_that_went_back_keeps_its_new_checkpoints(folder, capsys):
    checkpoints = Checkpoints(folder, "rank")
    for step in (98, 100):
        checkpoints.write(Checkpoint(step, {"x": torch.zeros(1)}, []), {})
        folder.path(f"rank/checkpoint-{step}/state.safetensors").write_bytes(b"damaged")
    assert checkpoints.read(True, {}) is None
    assert capsys.readouterr().err.count("damaged; passed over") == 2
    for step in (2, 4, 6):
        checkpoints.write(Checkpoint(step, {"x": torch.zeros(1)}, []), {})
    assert [p.name for p in checkpoints.folders()] == ["checkpoint-4", "checkpoint-6"]


def test_what_a_checkpoint_says_of_itself_is_hashed_too(folder):
    checkpoints = Checkpoints(folder, "rank")
    checkpoints.write(Checkpoint(2, {"x": torch.zeros(1)}, [{"loss": float("nan")}]), {})
    assert checkpoints.read(True, {}).step == 2
    path = folder.path("rank/checkpoint-2/checkpoint.json")
    path.write_text(path.read_text().replace('"step": 2', '"step": 3'))
    assert checkpoints.read(True, {}) is None


@pytest.mark.parametrize("content", ["[]", "{}", "nonsense", '{"sha256": 1}'])
def test_a_checkpoint_that_is_none_is_passed_over(folder, content):
    checkpoints = Checkpoints(folder, "rank")
    for step in (2, 4):
        checkpoints.write(Checkpoint(step, {"x": torch.zeros(1)}, []), {})
    folder.path("rank/checkpoint-4/checkpoint.json").write_text(content)
    assert checkpoints.read(True, {}).step == 2


def test_a_stage_is_done_while_inputs_and_outputs_stay(folder):
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


def test_a_stage_done_again_makes_later_ones_unfinished(folder):
    for stage in ("rank", "select", "tune"):
        folder.write_text(f"{stage}/a", "x")
        folder.finish_stage(stage, {}, [f"{stage}/a"], {"seconds": 1.0}, {})
    folder.finish_stage("select", {}, ["select/a"], {"seconds": 1.0}, {})
    assert list(folder.manifest()["stages"]) == ["rank", "select"]


def test_preparing_sweeps_what_a_kill_left_and_refuses_a_file(folder, tmp_path):
    folder.write_text("rank/a", "x")
    folder.path("rank/.b.part").write_text("half")
    folder.path(".tune.x.part").mkdir()
    folder.prepare()
    assert names(folder) == ["rank/a"]
    assert not folder.path(".tune.x.part").exists()
    with pytest.raises(UserError, match=r"output_dir: .* cannot be written to"):
        RunFolder(folder.path("rank/a")).prepare()
