"""Rankers learn from what people decided, and no row is scored by a model that has seen its own mark."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from sealtune.core.types import Decision, Scores
from sealtune.evaluation.metrics import auroc
from sealtune.ranking import linear_models
from sealtune.ranking.linear_models import logistic_regression
from sealtune.ranking.marks import DROP, KEEP, MARK_WEIGHT, example_weights, marks_of
from sealtune.ranking.scorer import Features, fit_probe, fit_safe_set_classifier, fit_scorer, standard_errors
from sealtune.ranking.selection import least_certain

WIDTH = 30
CENTERS = np.random.default_rng(5).normal(size=(4, 2, WIDTH)) * 0.45
FIT = np.array([0.0, -0.8, -1.0, -0.2])
"""Kinds of rows: ordinary ones; a harmless task that the safe set lacks, which fits badly; harm that fits badly; harm
that fits well. A loss cannot tell the second from the third, nor the fourth from the first.
"""


def world(seed):
    """Features of 200 candidates and 60 safe rows, and which candidates are unsafe."""
    random = np.random.default_rng(seed)

    def look(kinds):
        states = CENTERS[kinds] + random.normal(size=(len(kinds), 2, WIDTH))
        losses = 2 - FIT[kinds] + 0.6 * random.normal(size=len(kinds))
        return Features(torch.tensor(losses), torch.tensor(states).float())

    kinds = np.repeat(np.arange(4), [100, 40, 30, 30])
    return look(kinds), look(np.zeros(60, np.int64)), (kinds >= 2).astype(int)


def least_sure(candidates, safe, score, count):
    n = len(score)
    error = standard_errors(candidates, safe, 0).numpy()
    found = Scores.unweighted([str(i) for i in range(n)], ["s"] * n, score, standard_error=error)
    return least_certain(found, float(np.sort(score)[n // 4]), most=count)


def answered(rows, unsafe):
    marks = torch.zeros(len(unsafe), dtype=torch.int64)
    marks[rows] = torch.from_numpy(np.where(unsafe[rows] == 1, DROP, KEEP))
    return marks


def test_ten_decisions_on_the_least_certain_rows_raise_the_auroc_of_all_others():
    gains = []
    for seed in range(3):
        candidates, safe, unsafe = world(seed)
        before = fit_scorer(candidates, safe, 0).score.numpy()
        rows = least_sure(candidates, safe, before, 10)
        after = fit_scorer(candidates, safe, 0, answered(rows, unsafe)).score.numpy()
        others = np.setdiff1d(np.arange(len(unsafe)), rows)
        gains.append(auroc(after[others], unsafe[others]) - auroc(before[others], unsafe[others]))
    assert min(gains) > 0.01 and np.mean(gains) > 0.03


def test_wrong_decisions_lower_it():
    candidates, safe, unsafe = world(0)
    before = fit_scorer(candidates, safe, 0).score.numpy()
    rows = least_sure(candidates, safe, before, 30)
    after = fit_scorer(candidates, safe, 0, -answered(rows, unsafe)).score.numpy()
    others = np.setdiff1d(np.arange(len(unsafe)), rows)
    assert auroc(after[others], unsafe[others]) < auroc(before[others], unsafe[others]) - 0.05


@pytest.mark.parametrize("fit", ["probe", "resemblance"])
def test_no_row_is_scored_by_a_model_that_has_seen_its_mark(fit):
    """Random features, random marks: the logits of marked rows say nothing about their marks."""
    random = np.random.default_rng(1)
    features, safe = (torch.from_numpy(random.normal(size=(n, 40))) for n in (400, 100))
    marks = torch.from_numpy(random.choice([KEEP, DROP, 0], size=400, p=[0.2, 0.2, 0.6]))
    if fit == "probe":
        logits = fit_probe(torch.from_numpy(random.normal(size=400)), features, safe, 0, marks=marks).candidates
    else:
        logits = fit_safe_set_classifier(features, safe, 0, marks).candidates
    known = marks != 0
    assert 0.38 < auroc(logits[known].numpy(), (marks[known] == DROP).long().numpy()) < 0.62


def test_without_marks_no_bit_of_a_score_changes():
    candidates, safe, _ = world(0)
    marks = torch.zeros(200, dtype=torch.int64)
    assert marks_of({}, ["a"]) is None and example_weights(None) is None
    assert marks_of({"a": Decision("a", "unsure", "Ann", "2026-11-27")}, ["a"]) is None
    plain, unmarked = fit_scorer(candidates, safe, 0), fit_scorer(candidates, safe, 0, None)
    assert torch.equal(plain.score, unmarked.score)
    assert torch.allclose(fit_scorer(candidates, safe, 0, marks).score, plain.score, atol=1e-6), "equal weights"
    x = torch.randn(30, 4, dtype=torch.float64)
    ours = logistic_regression(x[:10], x[10:])
    theirs = LogisticRegression(C=0.01, class_weight="balanced", tol=1e-7, max_iter=1000)
    theirs.fit(x.numpy(), [1] * 10 + [0] * 20)
    assert torch.equal(ours.weight, torch.from_numpy(theirs.coef_[0])), "the model of an unweighted fit, to the bit"


def test_a_weight_is_worth_as_many_copies():
    x = torch.randn(20, 3, dtype=torch.float64)
    weights = torch.ones(8, dtype=torch.float64), torch.ones(12, dtype=torch.float64)
    weights[1][0] = 4
    copied = torch.cat([x[8:9]] * 3 + [x[8:]])
    heavy = logistic_regression(x[:8], x[8:], strength=0.01, weights=weights)
    many = logistic_regression(x[:8], copied, strength=0.01 * 20 / 23)  # the loss is a sum over the examples
    assert torch.allclose(heavy.weight, many.weight, atol=1e-5)


def test_marks_follow_the_ids():
    made = {verb: Decision(verb, verb, "Ann", "2026-11-27") for verb in ("keep", "drop", "unsure")}
    marks = marks_of(made, ["x", "drop", "unsure", "keep"])
    assert marks.tolist() == [0, DROP, 0, KEEP]
    assert example_weights(marks).tolist() == [1, MARK_WEIGHT, 1, MARK_WEIGHT]


def test_marked_rows_are_examples_however_many_rows_there_are(monkeypatch):
    candidates, safe, unsafe = world(1)
    rows = np.arange(0, 200, 10)
    monkeypatch.setattr(linear_models, "MAX_EXAMPLES", 15)
    before, after = (fit_scorer(candidates, safe, 0, marks).score.numpy() for marks in (None, answered(rows, unsafe)))
    others = np.setdiff1d(np.arange(200), rows)
    assert auroc(after[others], unsafe[others]) > auroc(before[others], unsafe[others]) + 0.05


@pytest.mark.parametrize("mark", [KEEP, DROP])
def test_rows_that_are_all_marked_alike_have_finite_scores(mark):
    candidates, safe, _ = world(0)
    few = candidates.take(torch.arange(8))
    assert torch.isfinite(fit_scorer(few, safe, 0, torch.full((8,), mark)).score).all()
