import json
import subprocess
import sys
from pathlib import Path

from conftest import made_rows, write_jsonl

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_throughput_measures_all_variants(tmp_path, tiny_folder):
    data, safe = write_jsonl(tmp_path / "c.jsonl", made_rows(20, 1)), write_jsonl(tmp_path / "s.jsonl", made_rows(9, 2))
    words = ["--model", tiny_folder, "--data", data, "--safe", safe, "--steps", 1, "--rounds", 1, "--batch", 4]
    command = [sys.executable, BENCHMARKS / "throughput.py", *words, "--output", tmp_path / "out.json"]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    report = json.loads((tmp_path / "out.json").read_text())
    assert set(report["tokens_per_second"]) == {"sft", "algorithm_1", "algorithm_2"}
    assert all(speed > 0 for speed in report["tokens_per_second"].values())
    assert report["memory_over_sft"]["sft"] == 1
