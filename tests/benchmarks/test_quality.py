"""The benchmarks of ranking quality run, on tiny models, and count what they claim to."""

import json
from argparse import Namespace

import numpy as np
import pytest

from benchmarks.quality import decisions
from benchmarks.quality.ranking import Task, quality
from benchmarks.quality.turns import conversations
from helpers.benchmarks import report_of, run_benchmark, write_mixture

RANKERS = ["loss", "probe", "seal:num_train_epochs=3", "embedding", "moderation", "unseen", "refined", "ceiling"]


@pytest.mark.slow
def test_ranking_measures_quality_and_cost(tmp_path, tiny_folder):
    pytest.importorskip("profanity_check", reason="alt-profanity-check is not installed")
    write_mixture(tmp_path)
    words = ["--folder", tmp_path, "--model", tiny_folder, "--output", tmp_path / "out.json", "--seeds", 0, 1]
    words += ["--rankers", *RANKERS, "--mixtures", "a", "a~0.1+refusals"]
    first = run_benchmark("quality/ranking.py", *words)
    report = json.loads((tmp_path / "out.json").read_text())
    assert len(report["runs"]) == 2 * 2 * len(RANKERS)
    again = run_benchmark("quality/ranking.py", *words)
    assert "auroc" not in again.stderr.read_text()  # no run is repeated
    assert again.stdout.read_text() == first.stdout.read_text()
    cost = {row["ranker"]: row["cost"]["mean"] for row in report["table"] if row["mixture"] == "a"}
    assert cost["loss"] == 1 / 3  # one forward pass over the candidates
    assert cost["ceiling"] == cost["embedding"] == cost["moderation"] == 0
    assert cost["loss"] < cost["probe"] < cost["refined"] and cost["probe"] < cost["seal:num_train_epochs=3"]
    assert all(row["auroc"] is not None for row in report["table"])
    thin = [run for run in report["runs"] if run["mixture"] == "a~0.1+refusals"]
    assert {run["unsafe"] for run in thin} == {round(0.1 * (run["rows"] - 3)) for run in thin}
    assert {run["estimated_unsafe"]["significant"] for run in thin if run["ranker"] == "probe"} == {False}
    assert first.stdout.read_text().startswith("| mixture | ranker | seeds | AUROC")
    assert (tmp_path / "out.md").exists()


def test_decisions_start_from_the_ranking_of_the_probe(tmp_path, tiny_folder):
    write_mixture(tmp_path)
    settings = {"folder": tmp_path, "model": str(tiny_folder), "rows": 30, "safe": "mixed", "safe_rows": 12}
    task = Task(Namespace(**settings, max_length=64, settings=[]), "a", 0)
    candidates, safe, ids = decisions.features(task)
    scores = decisions.rank(candidates, safe, ids, 0, {})
    score, _ = task._rank("probe")
    assert scores.by_id() == dict(zip(task.candidates.ids, score.tolist(), strict=True))


def test_hard_negatives_are_counted_in_the_lowest_fifth_and_in_the_lowest_k():
    rows = [{"unsafe": int(i in (0, 3, 4)), "hard_negative": int(i in (1, 2, 8, 9))} for i in range(10)]
    found = quality(np.arange(10.0), rows)
    assert found["hard_negatives_dropped"] == 0.25  # row 1 of the two lowest
    assert found["hard_negatives_at_k"] == 0.5  # rows 1 and 2 of the three lowest
    assert found["recall_k"] == pytest.approx(1 / 3)


@pytest.mark.slow
def test_transfer_tunes_one_model_on_rows_ranked_by_another(tmp_path, tiny_folder):
    write_mixture(tmp_path, "general_20", rows=60)
    words = ["--folder", tmp_path, "--rank-with", tiny_folder, "--tune", tiny_folder, "--rows", 20, "--held-out", 5]
    found = {row["ranked with"]: row for row in report_of("quality/transfer.py", tmp_path, *words)["results"]}
    assert set(found) == {"untuned", "all", tiny_folder.name, "random"}
    assert found["all"]["loss on safe"] < found["untuned"]["loss on safe"]
    assert found[tiny_folder.name]["auroc"] is not None


@pytest.mark.slow
def test_decisions_are_answered_by_labels_and_measured_on_all_other_rows(tmp_path, tiny_folder):
    write_mixture(tmp_path)
    words = ["--folder", tmp_path, "--model", tiny_folder, "--mixtures", "a", "--seeds", 0, "--rows", 40]
    words += ["--counts", 5, 12, 99, "--output", tmp_path / "out.json"]
    first = run_benchmark("quality/decisions.py", *words)
    runs = {run["choose"]: run for run in json.loads((tmp_path / "out.json").read_text())["runs"]}
    assert set(runs) == {"least_certain", "random"}
    for run in runs.values():
        assert [step["decisions"] for step in run["steps"]] == [5, 12], "99 of 40 rows cannot be decided about"
        assert all(0 <= step["auroc"] <= 1 and step["auroc_before"] is not None for step in run["steps"])
    assert runs["least_certain"]["steps"] != runs["random"]["steps"]
    again = run_benchmark("quality/decisions.py", *words)
    assert "seed" not in again.stderr.read_text(), "no run is repeated"
    assert again.stdout.read_text() == first.stdout.read_text() == (tmp_path / "out.md").read_text().split("\n\n")[1]


@pytest.mark.slow
def test_answers_are_ranked_in_their_conversations_and_alone(tmp_path, tiny_folder):
    write_mixture(tmp_path, rows=60)
    words = ["--folder", tmp_path, "--mixtures", "a", "--model", tiny_folder, "--conversations", 8, "--epochs", 1]
    report = report_of("quality/turns.py", tmp_path, *words, "--max-length", 400)
    (run,) = report["runs"]
    assert run["conversations"] == 8 and run["unsafe"] == 4 and run["answers"] >= 16
    for name in ("answers_turn", "answers_alone", "conversations_turn", "conversations_row"):
        assert 0 <= run[f"auroc_{name}"] <= 1


def test_every_other_conversation_has_one_unsafe_answer():
    rows = [{"id": str(i), "prompt": "a", "response": "b", "unsafe": int(i % 4 == 0)} for i in range(80)]
    talks = conversations(rows, 10, 1)
    assert [sum(row["unsafe"] for row in talk) for talk in talks] == [1, 0] * 5
    assert all(2 <= len(talk) <= 6 for talk in talks)
    assert len({row["id"] for talk in talks for row in talk}) == sum(map(len, talks))
    with pytest.raises(SystemExit, match=r"rows for \d+ conversations, not 30"):
        conversations(rows, 30, 1)
