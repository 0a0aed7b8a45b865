"""The table of a comparison, from verdicts made for the test."""

import pytest

from sealtune.core.types import Verdict
from sealtune.evaluation.comparison import MethodResult, markdown, table
from sealtune.evaluation.judging import tabulate

COLUMNS = {"seeds": [0, 1], "model": "m", "reference": "random", "failed": [], "selection": []}


def refusal_verdicts(method, answered):
    """One verdict per harmful prompt; ``answered`` states whether it was answered."""
    return [
        Verdict(f"p{i}", method, "set", "harmful", "refusal", "compliance", flagged=not found)
        for i, found in enumerate(answered)
    ]


def result(method, seed, answered):
    verdicts = refusal_verdicts(method, answered)
    return MethodResult(method, seed, tabulate(verdicts), [], verdicts, {})


def preference(score, number, error=None):
    return Verdict(f"p{number}", "seal", "set", "harmful", "pairwise", "won", score == 1, score, error)


@pytest.fixture
def results():
    return [
        result("random", 0, [True, True, False, False]),
        result("random", 1, [True, True, True, True]),
        result("seal", 0, [False, False, False, True]),
        result("seal", 1, [False, False, False, False]),
    ]


def test_values_are_means_over_seeds_with_a_paired_difference(results):
    rows = {row["model"]: row for row in table(results, [], "random")}
    random, seal = rows["random"], rows["seal"]
    assert (random["measure"], random["unit"], random["set"]) == ("attack_success_rate", "share", "all")
    assert (random["value"], random["seeds"], random["n"]) == (0.75, 2, 4)
    assert random["sd"] == pytest.approx(0.5 / 2**0.5)
    assert random["difference"] is None
    assert seal["difference"]["value"] == pytest.approx(0.125 - 0.75)
    assert seal["difference"]["n"] == 4


def test_preferences_become_a_win_rate_without_a_difference(results):
    preferences = [preference(1.0, 0), preference(0.5, 1), preference(None, 2, error="lost")]
    rows = [row for row in table(results, preferences, "random") if row["measure"] == "win_rate"]
    assert [(r["model"], r["value"], r["n"], r["title"], r["unit"]) for r in rows] == [
        ("seal", 0.75, 2, "win rate", "share")
    ]
    assert rows[0]["difference"] is None


def test_losses_and_tasks_are_kept_in_their_own_unit():
    loss = {"model": "seal", "measure": "loss", "title": "loss", "unit": "nats", "set": "safe", "kind": "", "judge": ""}
    task = loss | {"measure": "acc", "title": "acc", "unit": "score", "set": "mmlu", "kind": "task", "judge": "lm-eval"}
    values = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 9}
    found = [MethodResult("seal", seed, [loss | values, task | values], [], [], {}) for seed in (0, 1)]
    rows = table(found, [], "random")
    assert [(row["measure"], row["low"], row["sd"], row["difference"]) for row in rows] == [
        ("loss", 0.25, 0, None),
        ("acc", 0.25, 0, None),
    ]
    text = markdown(COLUMNS | {"methods": ["seal"], "table": rows})
    assert "loss, safe (n = 9) | acc, mmlu, lm-eval (n = 9)" in text
    assert "0.500 ± 0.000 [0.250, 0.750]" in text


def test_the_markdown_table_has_a_column_per_measure(results):
    rows = table(results, [], "random")
    text = markdown(COLUMNS | {"methods": ["random", "seal"], "table": rows})
    assert "attack success rate (compliance), harmful prompts, refusal (n = 4)" in text
    assert "| random | 75.0% ± 35.4%" in text
    assert "p = " in text
