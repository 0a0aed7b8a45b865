import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.rows import made_rows, write_jsonl

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_throughput_measures_all_variants(tmp_path, tiny_folder):
    data, safe = write_jsonl(tmp_path / "c.jsonl", made_rows(20, 1)), write_jsonl(tmp_path / "s.jsonl", made_rows(9, 2))
    words = ["--model", tiny_folder, "--data", data, "--safe", safe, "--steps", 1, "--rounds", 1, "--batch", 4]
    variants = ["sft", "tuner", "algorithm_1", "algorithm_2", "released", "fused"]
    run_benchmark("throughput.py", *words, "--variants", *variants, "--output", tmp_path / "out.json")
    report = json.loads((tmp_path / "out.json").read_text())
    assert set(report["tokens_per_second"]) == set(variants)
    assert all(speed > 0 for speed in report["tokens_per_second"].values())
    assert report["memory_over_sft"]["sft"] == 1
    assert report["padding_share"]["algorithm_2"] < 0.1
    for share in ("padding_share", "share_outside_model", "share_of_floor"):
        assert all(0 <= value < 1 for value in report[share].values())


def run_benchmark(name, *words):
    command = [sys.executable, BENCHMARKS / name, *words]
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)


def test_the_gpu_benchmark_runs_a_step_on_a_tiny_model(tmp_path):
    words = ["--tiny", "--steps", 1, "--rows", 40, "--max-length", 32, "--median-length", 16, "--batch", 4, "--profile"]
    run_benchmark("gpu.py", *words, "--checkpointing", 1, "--output", tmp_path / "out.json")
    runs = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert [run["variant"] for run in runs] == ["sft", "algorithm_2", "algorithm_1", "released"]
    assert all(run["tokens_per_second"] > 0 for run in runs)
    kernels = json.loads((tmp_path / "out.json").read_text())["kernels"]
    assert sum(kernel["share"] for kernel in kernels) > 0.5


def test_a_step_costs_no_more_memory_a_row_than_it_may(tmp_path):
    words = ["--rows", 1000, 300_000, "--steps", 5, "--output", tmp_path / "out.json"]
    run_benchmark("scale.py", *words)
    few, many = json.loads((tmp_path / "out.json").read_text())["by_rows"]
    assert many["bytes_per_row"] < 64
    assert many["seconds_per_step"] < 5 * few["seconds_per_step"]  # 300 times the rows


def write_mixture(folder):
    for name in ("mixtures", "safe"):
        (folder / name).mkdir()
    write_jsonl(folder / "mixtures/a.jsonl", made_rows(40, 1, hard_negative=0, quality=""))
    write_jsonl(folder / "safe/mixed.jsonl", made_rows(12, 2))
    write_jsonl(folder / "safe/safety.jsonl", made_rows(3, 9))


def test_ranking_measures_quality_and_cost(tmp_path, tiny_folder):
    write_mixture(tmp_path)
    words = [
        "--folder",
        tmp_path,
        "--model",
        tiny_folder,
        "--seeds",
        0,
        1,
        "--rankers",
        "loss",
        "probe",
        "seal:num_train_epochs=3",
        "unseen",
        "ceiling",
        "--mixtures",
        "a",
        "a~0.1+refusals",
    ]
    command = [sys.executable, BENCHMARKS / "ranking.py", *words, "--output", tmp_path / "out.json"]
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    report = json.loads((tmp_path / "out.json").read_text())
    assert len(report["runs"]) == 2 * 2 * 5
    again = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    assert "auroc" not in again.stderr  # nothing was measured twice
    assert again.stdout == done.stdout
    cost = {row["ranker"]: row["cost"]["mean"] for row in report["table"] if row["mixture"] == "a"}
    assert cost["loss"] == 1 / 3  # one forward pass over the candidates
    assert cost["ceiling"] == 0
    assert cost["loss"] < cost["probe"] < cost["seal:num_train_epochs=3"]
    assert all(row["auroc"] is not None for row in report["table"])
    thin = [run for run in report["runs"] if run["mixture"] == "a~0.1+refusals"]
    assert {run["unsafe"] for run in thin} == {round(0.1 * (run["rows"] - 3)) for run in thin}
    assert {run["estimated_unsafe"]["significant"] for run in thin if run["ranker"] == "probe"} == {False}
    assert done.stdout.startswith("| mixture | ranker | seeds | AUROC")
    assert (tmp_path / "out.md").exists()


def test_hard_negatives_are_counted_in_the_lowest_fifth_and_among_as_many_as_are_unsafe(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from ranking import quality

    rows = [{"unsafe": int(i in (0, 3, 4)), "hard_negative": int(i in (1, 2, 8, 9))} for i in range(10)]
    found = quality(np.arange(10.0), rows)
    assert found["hard_negatives_dropped"] == 0.25  # row 1 of the two lowest
    assert found["hard_negatives_at_k"] == 0.5  # rows 1 and 2 of the three lowest
    assert found["recall_k"] == pytest.approx(1 / 3)


def test_transfer_tunes_one_model_on_what_another_ranked(tmp_path, tiny_folder):
    for folder in ("mixtures", "safe"):
        (tmp_path / folder).mkdir()
    write_jsonl(tmp_path / "mixtures/general_20.jsonl", made_rows(60, 1))
    write_jsonl(tmp_path / "safe/mixed.jsonl", made_rows(8, 2))
    words = ["--folder", tmp_path, "--rank-with", tiny_folder, "--tune", tiny_folder, "--rows", 20, "--held-out", 5]
    command = [sys.executable, BENCHMARKS / "transfer.py", *words, "--output", tmp_path / "out.json"]
    subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    found = {row["ranked with"]: row for row in json.loads((tmp_path / "out.json").read_text())["results"]}
    assert set(found) == {"untuned", "all", tiny_folder.name, "random"}
    assert found["all"]["loss on safe"] < found["untuned"]["loss on safe"]
    assert found[tiny_folder.name]["auroc"] is not None


@pytest.mark.parametrize(
    ("stage", "method", "kills"), [("rank", "seal", 12), ("rank", "probe", 8), ("tune", "random", 3)]
)
def test_a_killed_stage_loses_nothing(tmp_path, tiny_folder, stage, method, kills):
    words = ["--model", tiny_folder, "--stage", stage, "--method", method, "--kills", kills, "--seed", 1]
    run_benchmark("kill.py", *words, "--output", tmp_path / "out.json")
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["kills"] == kills
    assert report["runs_ended"] == report["runs_with_the_same_bytes"] >= 1
    assert 0 <= report["went_on_from_a_checkpoint"] <= kills  # where it is hit is chance


def test_broken_files_are_refused_in_a_few_words(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import fuzz

    report = fuzz.fuzz(SimpleNamespace(inputs=400, seed=7, model=str(tiny_folder)), tmp_path)
    assert report["crashes"] == []
    assert {"rows", "refused", "config"} <= {outcome.split()[1] for outcome in report["outcomes"]}


def test_the_whole_pipeline_is_timed_beside_plain_tuning(tmp_path, tiny_folder):
    write_mixture(tmp_path)
    words = ["--folder", tmp_path, "--mixture", "a", "--model", tiny_folder, "--repetitions", 1]
    run_benchmark("whole.py", *words, "--output", tmp_path / "out.json")
    report = json.loads((tmp_path / "out.json").read_text())
    assert set(report["seconds"]) == {"plain", "tuner", "rank", "select", "tune"}
    assert all(seconds > 0 for seconds in report["seconds"].values())


def test_generation_is_timed_beside_transformers_own(tmp_path, tiny_folder):
    prompts = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "red " * i} for i in range(1, 7)])
    words = ["--model", tiny_folder, "--prompts", prompts, "--batch", 2, "--max-new-tokens", 4, "--rounds", 1]
    run_benchmark("generation.py", *words, "--output", tmp_path / "out.json")
    report = json.loads((tmp_path / "out.json").read_text())
    assert set(report["tokens_per_second"]) == {"plain", "ours", "static"}
    assert report["ours_over_plain"] > 0


def test_processes_are_timed_beside_one(tmp_path, tiny_folder):
    write_mixture(tmp_path)
    rows = ["--data", tmp_path / "mixtures/a.jsonl", "--safe", tmp_path / "safe/mixed.jsonl"]
    words = ["--model", tiny_folder, "--batch", 4, "--steps", 1, "--rounds", 1, "--output", tmp_path / "out.json"]
    run_benchmark("processes.py", *rows, *words)
    report = json.loads((tmp_path / "out.json").read_text())
    assert set(report["tokens_per_second"]) == {"1", "2"}
    assert report["speed_up"] == report["tokens_per_second"]["2"] / report["tokens_per_second"]["1"] > 0


def test_more_rows_than_memory_holds_are_read_tokenised_ranked_and_selected(tmp_path):
    run_benchmark("rows.py", "--rows", 2000, "--steps", 3, "--folder", tmp_path, "--output", tmp_path / "out.json")
    report = json.loads((tmp_path / "out.json").read_text())
    (found,) = report["by_rows"]
    stages = found["stages"]
    assert {name: facts["rows"] for name, facts in stages.items()} == {
        "door": 2000,
        "tokens": 2000,
        "rank": 24,
        "select": 2000,
    }
    assert all(facts["rows_per_second"] > 0 for facts in stages.values())
    assert report["most_memory_bytes"] < 2**28
    assert found["disk_bytes"]["out/rows"] > found["disk_bytes"]["candidates.jsonl"]
    assert list(tmp_path.iterdir()) == [tmp_path / "out.json"]
