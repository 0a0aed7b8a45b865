"""The benchmarks of time and memory run, on tiny models."""

import json

import pytest

from helpers.benchmarks import report_of, write_mixture
from helpers.rows import made_rows, write_jsonl


@pytest.mark.slow
def test_throughput_compares_variants(tmp_path, tiny_folder):
    data, safe = write_jsonl(tmp_path / "c.jsonl", made_rows(20, 1)), write_jsonl(tmp_path / "s.jsonl", made_rows(9, 2))
    words = ["--model", tiny_folder, "--data", data, "--safe", safe, "--steps", 2, "--rounds", 1, "--batch", 4]
    variants = ["sft", "algorithm_2", "guard"]  # the others run in the benchmark for GPUs
    report = report_of("cost/throughput.py", tmp_path, *words, "--variants", *variants)
    assert set(report["tokens_per_second"]) == set(variants)
    assert all(speed > 0 for speed in report["tokens_per_second"].values())
    assert report["memory_over_sft"]["sft"] == 1
    assert report["padding_share"]["algorithm_2"] < 0.1
    for share in ("padding_share", "share_outside_model", "share_of_floor"):
        assert all(0 <= value < 1 for value in report[share].values())
    speed = report["speed_over_sft"]
    assert 0 < speed["guard"] < 1  # the tokens of the task alone count
    assert report["memory_over_sft"]["guard"] < 2


@pytest.mark.slow
def test_the_gpu_benchmark_runs_a_step_of_a_tiny_model(tmp_path):
    words = ["--tiny", "--steps", 1, "--rows", 40, "--max-length", 32, "--median-length", 16, "--batch", 4, "--profile"]
    variants = ["algorithm_1"]
    report = report_of("cost/gpu.py", tmp_path, *words, "--checkpointing", 1, "--variants", *variants)
    assert [run["variant"] for run in report["runs"]] == variants
    assert all(run["tokens_per_second"] > 0 for run in report["runs"])
    assert sum(kernel["share"] for kernel in report["kernels"]) > 0.5


@pytest.mark.slow
def test_time_and_memory_per_step_hardly_grow_with_the_rows(tmp_path):
    few, many = report_of("cost/scale.py", tmp_path, "--rows", 1000, 100_000, "--steps", 5)["by_rows"]
    assert many["bytes_per_row"] < 64
    assert many["seconds_per_step"] < 5 * few["seconds_per_step"]  # with 100 times the rows


@pytest.mark.slow
def test_the_whole_pipeline_is_compared_with_plain_tuning(tmp_path, tiny_folder):
    write_mixture(tmp_path)
    words = ["--folder", tmp_path, "--mixture", "a", "--model", tiny_folder, "--repetitions", 1]
    report = report_of("cost/whole.py", tmp_path, *words)
    assert set(report["seconds"]) == {"plain", "tuner", "rank", "select", "tune"}
    assert all(seconds > 0 for seconds in report["seconds"].values())


def test_generation_is_compared_with_that_of_transformers(tmp_path, tiny_folder):
    prompts = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "red " * i} for i in range(1, 7)])
    words = ["--model", tiny_folder, "--prompts", prompts, "--batch", 2, "--max-new-tokens", 4, "--rounds", 1]
    report = report_of("cost/generation.py", tmp_path, *words)
    assert set(report["tokens_per_second"]) == {"plain", "ours", "static"}
    assert report["ours_over_plain"] > 0


@pytest.mark.slow
def test_two_processes_are_compared_with_one(tmp_path, tiny_folder):
    write_mixture(tmp_path)
    rows = ["--data", tmp_path / "mixtures/a.jsonl", "--safe", tmp_path / "safe/mixed.jsonl"]
    words = ["--model", tiny_folder, "--batch", 4, "--steps", 1, "--rounds", 1]
    report = report_of("cost/processes.py", tmp_path, *rows, *words)
    assert set(report["tokens_per_second"]) == {"1", "2"}
    assert report["speed_up"] == report["tokens_per_second"]["2"] / report["tokens_per_second"]["1"] > 0


@pytest.mark.slow
def test_every_stage_of_many_rows_is_measured(tmp_path):
    report = report_of("cost/rows.py", tmp_path, "--rows", 600, "--steps", 2, "--folder", tmp_path)
    (found,) = report["by_rows"]
    rows = {name: facts["rows"] for name, facts in found["stages"].items()}
    assert rows == {"load": 600, "tokenize": 600, "rank": 16, "select": 600}
    assert all(facts["rows_per_second"] > 0 for facts in found["stages"].values())
    assert report["most_memory_bytes"] < 2**28
    assert found["disk_bytes"]["out/rows"] > found["disk_bytes"]["candidates.jsonl"]
    assert list(tmp_path.iterdir()) == [tmp_path / "out.json"]
    assert json.dumps(report["settings"])
