import csv
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from sealtune.evaluation.metrics import win_rate

DATA = Path(os.environ.get("SEALTUNE_DATA", Path(__file__).parents[3] / "shared/data")) / "alpaca_eval"


def test_win_rate_of_a_few_preferences():
    rate = win_rate([1, 0, 0.5, 0.5, math.nan])
    assert (rate.value, rate.n, rate.unparsed) == (50, 4, 1)
    assert rate.standard_error == pytest.approx(100 * math.sqrt(0.5 / 3 / 4))
    assert (rate.low, rate.high) == pytest.approx(
        (50 - 1.96 * rate.standard_error, 50 + 1.96 * rate.standard_error), 1e-3
    )


def test_bounds_are_clipped_and_need_two_preferences():
    assert win_rate([1, 1, 1]).high == 100 and win_rate([0, 0, 0.1]).low == 0
    single = win_rate([0.25])
    assert single.value == 25 and math.isnan(single.standard_error) and math.isnan(single.low)


@pytest.mark.parametrize(
    ("preferences", "message"),
    [([], "at least one"), ([1.5], "outside"), ([-0.1, 1], "outside"), ([math.nan], "parsed")],
)
def test_invalid_preferences_are_refused(preferences, message):
    with pytest.raises(ValueError, match=message):
        win_rate(preferences)


def published():
    path = DATA / "leaderboard.csv"
    if not path.exists():
        pytest.skip("the AlpacaEval figures are missing; set SEALTUNE_DATA to the parent of their folder")
    with path.open(encoding="utf-8", newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def preferences(model):
    """The judge's preferences for the model, in [0, 1]."""
    rows = [json.loads(line) for line in (DATA / f"{model}.jsonl").read_text(encoding="utf-8").splitlines()]
    return np.array([row["preference"] for row in rows], float) - 1


def test_published_win_rates_and_standard_errors_are_reproduced():
    board = published()
    assert len(board) == 7
    for model, row in board.items():
        rate = win_rate(preferences(model))
        assert rate.value == pytest.approx(float(row["win_rate"]), abs=0.01)
        assert rate.standard_error == pytest.approx(float(row["standard_error"]), abs=0.01)
        assert rate.n == int(row["n_total"]) and rate.unparsed == 0
