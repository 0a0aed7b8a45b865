"""Runs a benchmark as its docstring shows, on data of a few rows."""

import json
import subprocess
import sys
from pathlib import Path

from helpers.rows import made_rows, write_jsonl

ROOT = Path(__file__).parents[2]


def run_benchmark(script, *words):
    """Run ``benchmarks/<script>`` in a process of its own."""
    command = [sys.executable, ROOT / "benchmarks" / script, *words]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def report_of(script, folder, *words):
    """The report that the benchmark writes."""
    run_benchmark(script, *words, "--output", folder / "out.json")
    return json.loads((folder / "out.json").read_text(encoding="utf-8"))


def write_mixture(folder, name="a", rows=40):
    """Labelled candidates and safe sets in the folders that the benchmarks expect."""
    for part in ("mixtures", "safe"):
        (folder / part).mkdir()
    write_jsonl(folder / f"mixtures/{name}.jsonl", made_rows(rows, 1, hard_negative=0, quality=""))
    write_jsonl(folder / "safe/mixed.jsonl", made_rows(12, 2))
    write_jsonl(folder / "safe/safety.jsonl", made_rows(3, 9))
