"""Runs a benchmark as its docstring shows, on data of a few rows."""

import json
from pathlib import Path

from helpers.forked import Job
from helpers.rows import made_rows, write_jsonl

ROOT = Path(__file__).parents[2]


def run_benchmark(script, *words):
    """Run ``benchmarks/<script>`` in a process of its own, and wait for its end."""
    process = Job([str(word) for word in (ROOT / "benchmarks" / script, *words)], {}, processes=1)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return process


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
