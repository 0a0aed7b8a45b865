"""Tasks of lm-evaluation-harness, offline: task files and rows written for the test."""

import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

import sealtune
from helpers.rows import WORDS, write_jsonl
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.evaluation import harness
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import check_run, run_stage
from sealtune.report.summary import measures

needs_harness = pytest.mark.skipif(
    find_spec("lm_eval") is None, reason="lm-eval is not installed: pip install 'sealtune[eval]'"
)
CHOICE = """task: colours
dataset_path: json
dataset_kwargs:
  data_files: {test: %s}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
WRITTEN = """task: sums
dataset_path: json
dataset_kwargs:
  data_files: {test: %s}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{target}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4, do_sample: false}
filter_list:
  - name: strict
    filter: [{function: take_first}]
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture
def tasks(project, tmp_path):
    """Two task files; in ``colours`` the right choice is always the first one, and both have the same length."""
    rows = [{"question": f"The {word} fox", "choices": ["red", "dog"], "answer": 0} for word in WORDS]
    data = write_jsonl(tmp_path / "colours.jsonl", rows)
    (tmp_path / "colours.yaml").write_text(CHOICE % data)
    data = write_jsonl(tmp_path / "sums.jsonl", [{"question": "sum of 2", "target": "no model says this"}] * 3)
    (tmp_path / "sums.yaml").write_text(WRITTEN % data)
    project["rank"] = {"method": "random"}
    return project


def evaluate(project, **settings):
    job = Run(build_config(project | {"evaluate": project["evaluate"] | settings}))
    for stage in ("rank", "select", "tune", "evaluate"):
        run_stage(job, stage)
    table = json.loads(Path("out/evaluate/results.json").read_text())
    return job, [row for row in table if row["kind"] == "task"]


@needs_harness
@pytest.mark.slow
def test_tasks_become_rows_of_the_table_for_both_models(tasks):
    tasks["evaluate"]["prompts"] = []
    job, rows = evaluate(tasks, tasks=["colours.yaml", "sums.yaml"])
    found = {(r["model"], r["set"], r["measure"]): r for r in rows}
    assert set(found) == {
        (model, *rest) for model in ("base", "tuned") for rest in (("colours", "acc"), ("sums", "exact_match (strict)"))
    }
    for row in rows:
        assert set(row) == {"model", "set", "kind", "judge", "measure", "title", "unit", "value", "low", "high", "n"}
        assert (row["title"], row["unit"]) == (row["measure"], "score")
        assert row["n"] == (13 if row["set"] == "colours" else 3)
        assert row["low"] <= row["value"] <= row["high"]
    assert found["base", "sums", "exact_match (strict)"]["value"] == 0
    run_stage(job, "report")
    assert "colours" in Path("out/report.html").read_text()
    assert "colours" in str(measures(json.loads(Path("out/results.json").read_text())["evaluation"]))


@needs_harness
def test_the_choice_with_the_higher_likelihood_counts(tasks, tiny_folder):
    """Against an oracle: the likelihood of each choice, token by token, from the model itself."""
    import torch

    from sealtune.models.load import load_model, load_tokenizer

    config = build_config(tasks | {"evaluate": {"tasks": ["colours.yaml"], "task_limit": 5}})
    model, tokenizer = load_model(config), load_tokenizer(config)
    (row,) = harness.measure(model, "base", tokenizer, config.evaluate)

    def likelihood(context, choice):
        whole = tokenizer(f"{context} {choice}", return_tensors="pt").input_ids
        start = len(tokenizer(context).input_ids)
        with torch.no_grad():
            logs = model(whole).logits.log_softmax(-1)
        return sum(float(logs[0, i - 1, whole[0, i]]) for i in range(start, whole.shape[1]))

    right = [likelihood(f"The {word} fox", "red") > likelihood(f"The {word} fox", "dog") for word in WORDS[:5]]
    assert row["value"] == sum(right) / 5
    assert (row["n"], row["model"], row["judge"]) == (5, "base", "lm-eval")
    assert sealtune.evaluate(model, tokenizer, [], "base", tasks=["colours.yaml"], task_limit=5) == [row]
    assert tokenizer.padding_side == load_tokenizer(config).padding_side


@pytest.mark.slow
@needs_harness
def test_a_changed_task_file_reruns_the_stage(tasks, capsys):
    tasks["evaluate"]["prompts"] = []
    _, before = evaluate(tasks, tasks=["colours.yaml"], base=False)
    Path("colours.yaml").write_text(
        Path("colours.yaml").read_text().replace("doc_to_target: answer", "doc_to_target: 1")
    )
    _, after = evaluate(tasks, tasks=["colours.yaml"], base=False)
    assert before[0]["value"] == pytest.approx(1 - after[0]["value"])


@needs_harness
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hellaswagg", "no task 'hellaswagg'; did you mean 'hellaswag'"),
        ("nowhere.yaml", "nowhere.yaml: no such task file"),
    ],
)
def test_an_unknown_task_is_refused_before_anything_runs(project, monkeypatch, name, message):
    known = SimpleNamespace(all_tasks=["gsm8k", "hellaswag", "mmlu"])  # reading the real index takes seconds
    monkeypatch.setattr(harness, "_manager", lambda with_known: known)
    job = Run(build_config(project | {"evaluate": {"tasks": [name]}}))
    with pytest.raises(UserError, match=message):
        check_run(job)


@needs_harness
def test_missing_data_of_a_task_is_a_one_line_error(tasks, tiny_folder):
    from sealtune.models.load import load_model, load_tokenizer

    Path("colours.jsonl").unlink()
    config = build_config(tasks | {"evaluate": {"tasks": ["colours.yaml"]}})
    with pytest.raises(UserError, match=r"colours\.yaml cannot be run: .*colours\.jsonl") as error:
        harness.measure(load_model(config), "base", load_tokenizer(config), config.evaluate)
    assert "\n" not in str(error.value)


def test_the_error_names_the_extra_if_the_package_is_missing(project, monkeypatch):
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    job = Run(build_config(project | {"evaluate": {"tasks": ["gsm8k"]}}))
    with pytest.raises(UserError, match=r"pip install 'sealtune\[eval\]'"):
        check_run(job)


def test_a_group_is_one_row_without_rows_for_its_tasks():
    found = {
        "results": {
            "mmlu": {"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": "mmlu"},
            "stem": {"acc,none": 0.4, "acc_stderr,none": 0.1},
            "physics": {"acc,none": 0.4, "acc_stderr,none": "N/A"},
            "law": {"acc,none": 0.6, "acc_stderr,none": 0.1},
            "alone": {"perplexity,none": 7.0, "perplexity_stderr,none": "N/A"},
        },
        "groups": {"mmlu": {}, "stem": {}},
        "group_subtasks": {"mmlu": ["stem", "law"], "stem": ["physics"]},
        "n-samples": {name: {"effective": n} for name, n in (("physics", 3), ("law", 4), ("alone", 5))},
    }
    mmlu, alone = harness.tabulate(found)
    assert (mmlu["set"], mmlu["measure"], mmlu["value"], mmlu["n"]) == ("mmlu", "acc", 0.5, 7)
    assert mmlu["low"] == pytest.approx(0.5 - 0.196, abs=1e-4)
    assert (alone["set"], alone["n"]) == ("alone", 5) and alone["low"] != alone["low"]


def test_without_tasks_the_package_is_not_needed(monkeypatch):
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    harness.check(build_config({"model_name_or_path": "m"}).evaluate)
