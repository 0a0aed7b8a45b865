from dataclasses import replace

import numpy as np
import pytest

from sealtune.core.errors import UserError
from sealtune.core.types import Scores
from sealtune.pipeline.folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def names(folder):
    return sorted(str(p.relative_to(folder.root)) for p in folder.root.rglob("*") if p.is_file())


def test_scores_survive_a_round_trip(folder):
    nan = np.array([np.nan, 1.0])
    scores = Scores(("a", "b"), ("s", "t"), np.array([1.5, -2]), np.ones(2), nan, nan, np.array([3, 0]))
    folder.write_scores(scores, np.array([0, 3]))
    back = folder.read_scores()
    assert (back.ids, back.source) == (scores.ids, scores.source)
    np.testing.assert_array_equal(back.score, scores.score)
    np.testing.assert_array_equal(back.loss, nan)
    assert back.visits.tolist() == [3, 0]


def test_summands_and_places_survive_a_round_trip(folder):
    one = np.array([0.5, np.nan, -1.0])
    none = np.full(3, np.nan)
    scores = Scores(("a", "b", "c"), ("s",) * 3, np.arange(3.0), np.ones(3), none, none, np.ones(3, np.int64))
    folder.write_scores(replace(scores, parts={"fit": one}, places=np.stack([one, one + 1], 1)), np.arange(3))
    found = folder.read_scores()
    assert found.parts.keys() == {"fit"} and np.array_equal(found.parts["fit"], one, equal_nan=True)
    assert np.array_equal(found.places, np.stack([one, one + 1], 1), equal_nan=True)
    taken = found.take([2, 0])
    assert taken.parts["fit"].tolist() == [-1.0, 0.5] and taken.places[0].tolist() == [-1.0, 0.0]


def test_missing_and_invalid_scores_are_refused(folder):
    with pytest.raises(UserError, match="run `sealtune rank` first"):
        folder.read_scores()
    folder.write_text("rank/scores.parquet", "not parquet")
    with pytest.raises(UserError, match="not a file of scores"):
        folder.read_scores()


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
