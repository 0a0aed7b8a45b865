import numpy as np
import pytest

from sealtune.core.string_array import StringArray
from sealtune.core.types import Labels, Message, Rejections, Sample, Scores


def test_prompt_and_response_are_split_at_the_last_assistant_turn():
    turns = (Message("system", "s"), Message("user", "u"), Message("assistant", "a"), Message("user", "v"))
    sample = Sample("id", (*turns, Message("assistant", "b")), "web", {})
    assert (sample.prompt, sample.response) == ("s\nu\na\nv", "b")


def test_labels_are_a_mapping_with_a_lookup_by_ids():
    labels = Labels.from_mapping({"a": 1, "b": 0})
    assert dict(labels) == {"a": 1, "b": 0}
    assert labels.lookup(["b", "x", "a"]).tolist() == [0, -1, 1]
    assert Labels.from_mapping(labels) is labels
    with pytest.raises(KeyError):
        labels["x"]


def test_taking_rows_of_scores_keeps_absent_columns_absent():
    scores = Scores.unweighted(["a", "b", "c"], ["s", "t", "u"], np.array([1.0, 2.0, 3.0]), loss=np.arange(3.0))
    taken = scores.take([2, 0])
    assert (list(taken.ids), list(taken.source)) == (["c", "a"], ["u", "s"])
    assert (taken.score.tolist(), taken.loss.tolist()) == ([3.0, 1.0], [2.0, 0.0])
    assert taken.standard_error is None and np.isnan(taken.gap).all()
    assert taken.by_id() == {"c": 3.0, "a": 1.0}


def test_rejections_are_ranked_rows():
    rejections = Rejections(StringArray.of(["a", "b", "c"]), np.array([3.0, 2.0, 1.0]), np.arange(5, 8), "low_score")
    assert [(row.id, row.rank) for row in rejections] == [("a", 5), ("b", 6), ("c", 7)]
    assert rejections[-1].score == 1.0 and rejections[:2][1].id == "b"
    with pytest.raises(IndexError):
        rejections[3]
