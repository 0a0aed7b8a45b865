"""The benchmark of outcomes runs on a tiny model, resumes, and its table counts what it claims to."""

import json

import numpy as np
import pytest

from benchmarks.quality.outcome import METHODS
from benchmarks.quality.outcome_measures import half, is_coherent, is_same_number, is_same_query
from benchmarks.quality.outcome_table import measure
from helpers.benchmarks import run_benchmark, write_mixture
from helpers.rows import made_rows, write_jsonl

CHOSEN = ["start", "all", "oracle", "probe+guard", "safeinstr", "repair"]


@pytest.fixture
def folder(tmp_path):
    write_mixture(tmp_path, "general_20", rows=120)
    write_jsonl(tmp_path / "safe/safety.jsonl", [r | {"response": "i cannot do that"} for r in made_rows(40, 9)])
    write_jsonl(tmp_path / "safe/helpful.jsonl", made_rows(40, 8))
    for name in ("prompts", "pairs"):
        (tmp_path / name).mkdir()
    write_jsonl(tmp_path / "prompts/gsm8k_test.jsonl", [{"prompt": f"add {i}", "answer": str(i)} for i in range(20)])
    pairs = [{"prompt": f"do harm {i}", "safe": "no", "unsafe": "yes , it is"} for i in range(20)]
    write_jsonl(tmp_path / "pairs/beavertails.jsonl", pairs)
    for name, seed in (("bad", 3), ("good", 4)):
        write_jsonl(tmp_path / f"prompts/{name}.jsonl", made_rows(8, seed))
    lines = {
        "harmful": {"prompts/bad.jsonl": [0, 2, 5, 6]},
        "harmless": {"prompts/good.jsonl": [1, 2, 3], "default": [199]},
    }
    (tmp_path / "prompts.json").write_text(json.dumps({"development": lines}))
    return tmp_path


@pytest.mark.slow
def test_every_method_is_a_line_and_none_is_repeated(folder, tiny_folder):
    words = ["--folder", folder, "--model", tiny_folder, "--prompts", folder / "prompts.json", "--split", "development"]
    words += [
        "--methods",
        *CHOSEN,
        "--generate",
        "--new-tokens",
        3,
        "--output",
        folder / "runs.jsonl",
        "--max-length",
        64,
    ]
    run_benchmark("quality/outcome.py", *words)
    runs = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    assert [run["method"] for run in runs] == CHOSEN
    by = {run["method"]: run for run in runs}
    assert by["oracle"]["unsafe_rows"] == 0 < by["all"]["unsafe_rows"]
    assert by["all"]["rows"] == 96
    assert by["safeinstr"]["guard"] == [] != by["probe+guard"]["guard"]
    assert "repair" in by["repair"]
    assert all(len(run["log_odds"]) == len(run["refused"]) == 8 for run in runs)
    assert all(0 <= run["prefilled_refused"] <= 1 and 0 <= run["accuracy_gsm8k"] <= 1 for run in runs)
    assert len({run["pair_margin"] for run in runs}) > 1
    assert run_benchmark("quality/outcome.py", *words).stdout.read_text() == ""
    table = ["--prompts", folder / "prompts.json", "--split", "development", "--output", folder / "out.json"]
    shown = run_benchmark("quality/outcome_table.py", folder / "runs.jsonl", *table).stdout.read_text()
    assert "| general_20 | mild | probe+guard | 0 |" in shown
    content = json.loads((folder / "out.json").read_text())
    assert {run["method"] for run in content["runs"]} == set(CHOSEN)
    assert all(run["J_low"] <= run["J"] <= run["J_high"] for run in content["runs"])


def test_a_runs_figures_are_paired_with_the_start_model():
    start = {
        "model": "m",
        "method": "start",
        "seed": 0,
        "log_odds": [*np.linspace(0.1, 2, 20), *np.linspace(-2, -0.1, 20)],
    }
    worse = start | {"method": "all", "log_odds": [*np.linspace(-1.9, 2, 20), *np.linspace(-2, -0.1, 20)]}
    before, after = measure(start, start, 20), measure(worse, start, 20)
    assert before["J"] == 1.0
    assert before["J_change"] == 0.0
    assert after["J"] == pytest.approx(after["harmful_refused"] - after["harmless_refused"])
    assert after["J_change"] == pytest.approx(after["J"] - 1)
    assert after["J_change_high"] < 0
    assert after["measured_by"] == "likelihood"
    answers = {"refused": [1] * 20 + [0] * 20, "coherent": [1] * 10 + [0] * 10 + [1] * 20}
    judged = measure(worse | answers, start | answers, 20)
    assert (judged["harmful_refused"], judged["measured_by"]) == (0.5, "generation")  # a broken answer is no refusal


def test_development_and_final_figures_share_no_rows(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": f"p{i}"} for i in range(60)])
    first, final = ({row["prompt"] for row in half(path, split, "prompt")} for split in ("development", "final"))
    assert not first & final
    assert len(first | final) == 60
    assert min(len(first), len(final)) > 15
    assert half(tmp_path / "absent.jsonl", "final", "prompt") == []


@pytest.mark.parametrize(
    "text", ["select a from b where c = 'x';", '```sql\nSELECT a\nFROM b WHERE c = "x"\n```\nThis selects a.']
)
def test_a_query_is_right_however_it_is_written(text):
    assert is_same_query(text, {"response": 'SELECT a FROM b WHERE c = "x"'})
    assert not is_same_query(text, {"response": 'SELECT a FROM b WHERE c = "y"'})


def test_a_sum_is_right_if_its_last_number_is():
    assert is_same_number("so 3 + 4 is 1,007.", {"answer": "1007"})
    assert not is_same_number("7 and then 8", {"answer": "7"})
    assert not is_same_number("none", {"answer": "7"})


def test_the_methods_are_those_of_the_table():
    assert {"all", "random", "oracle", "seal", "probe", "safeinstr", "probe+safeinstr", "guard", "probe+guard"} <= set(
        METHODS
    )
    assert is_coherent("I cannot help with that.")
    assert not is_coherent("no " * 30)
