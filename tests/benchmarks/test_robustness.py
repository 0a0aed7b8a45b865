"""Killed stages lose nothing, and broken files are refused."""

from types import SimpleNamespace

import pytest

from benchmarks.robustness.fuzz import fuzz
from helpers.benchmarks import report_of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "method", "kills"), [("rank", "seal", 5), ("rank", "probe", 4), ("tune", "random", 2)]
)
def test_a_killed_stage_loses_nothing(tmp_path, tiny_folder, stage, method, kills):
    words = ["--model", tiny_folder, "--stage", stage, "--method", method, "--kills", kills, "--seed", 1]
    report = report_of("robustness/kill.py", tmp_path, *words)
    assert report["kills"] == kills
    assert report["runs_ended"] == report["runs_with_the_same_bytes"] >= 1
    assert 0 <= report["resumed_from_a_checkpoint"] <= kills  # depends on when it was killed


def test_broken_files_are_refused_in_a_few_words(tmp_path, tiny_folder):
    report = fuzz(SimpleNamespace(inputs=600, seed=3, model=str(tiny_folder)), tmp_path)
    assert report["crashes"] == []
    outcomes = {outcome.rpartition(" ")[0].split()[0] + outcome[outcome.rfind(" ") :] for outcome in report["outcomes"]}
    assert {"judge judged", ".jsonl rows", ".jsonl refused", ".yaml config", "manifest.json refused"} <= outcomes
