"""What results.json says about the guard and the safe set."""

import json
from pathlib import Path

import pytest

from helpers.rows import write_jsonl
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.pipeline import results
from sealtune.pipeline.manifest import StageEntry
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage


def run(project, *stages):
    job = Run(build_config(project | {"rank": {"method": "random"}}))
    for stage in stages:
        run_stage(job, stage)
    return json.loads(Path("out/results.json").read_text())


@pytest.fixture
def halves(project):
    """A safe set with a refusing and a helping half."""
    answers = ("I'm sorry, I cannot do that.", "a quick list")
    rows = [{"prompt": f"red fox {i}", "response": answers[i % 2]} for i in range(12)]
    write_jsonl(Path("safe.jsonl"), rows)
    return project


def test_the_history_of_the_guard_is_in_the_results(halves):
    guard = run(halves, "rank", "select", "tune", "report")["guard"]
    assert (guard["mode"], guard["tolerance"]) == ("teach", 0.02)
    assert guard["history"] == [json.loads(line) for line in Path("out/tune/guard.jsonl").read_text().splitlines()]
    assert guard["history"][0]["step"] == 0
    assert guard["steps"] == guard["history"][-1]["step"] > 0
    page = Path("out/report.html").read_text()
    assert 'id="figure-guard"' in page
    assert "<p>Mode teach: " in page


def test_a_tuning_without_guard_is_off_and_before_it_nothing_is_said(halves):
    assert run(halves, "rank", "select", "report")["guard"] is None
    halves["tune"]["guard"] = "off"
    assert run(halves, "tune", "report")["guard"]["mode"] == "off"
    assert "<p>Off: only the choice of rows" in Path("out/report.html").read_text()


def test_the_step_that_was_kept_is_taken_from_the_manifest(halves):
    run(halves, "rank", "select", "tune", "report")
    job = Run(build_config(halves))
    entry = job.folder.manifest().stages["tune"].as_dict() | {"kept_step": 1}
    assert results.guard(job.folder, StageEntry(**entry))["kept_step"] == 1


def test_a_tuning_that_nothing_guarded_is_off_whatever_was_wanted(halves):
    run(halves, "rank", "select", "tune", "report")
    job = Run(build_config(halves))
    Path("out/tune/guard.jsonl").write_text("")
    entry = job.folder.manifest().stages["tune"]
    assert entry.inputs["tune"]["guard"] == "teach"
    assert results.guard(job.folder, entry)["mode"] == "off"


def test_a_damaged_history_is_one_line(halves):
    run(halves, "rank", "select", "tune", "report")
    Path("out/tune/guard.jsonl").write_text('{"step": "<b>"}\n')
    with pytest.raises(UserError, match=r"guard.jsonl, line 1: step: .*; run the stage again"):
        run_stage(Run(build_config(halves)), "report", force=True)


def test_the_safe_set_is_examined_again_when_it_changed(halves, capsys):
    found = {finding["name"]: finding for finding in run(halves, "rank", "select", "report")["safe_set"]}
    assert found["halves"]["fact"] == "6 rows (50%) refuse, 6 rows (50%) help"
    assert found["halves"]["severity"] == "fine"
    assert found["rows"]["severity"] == "advice"
    assert found["rows"]["fact"] in Path("out/report.html").read_text()
    write_jsonl(Path("safe.jsonl"), [{"prompt": f"red {i}", "response": "a quick list"} for i in range(12)])
    found = {finding["name"]: finding for finding in run(halves, "report")["safe_set"]}
    assert found["halves"]["severity"] == "warning"


def test_a_safe_set_that_cannot_be_examined_is_no_reason_to_show_no_report(halves):
    run(halves, "rank", "select", "report")
    halves["evaluate"]["prompts"] = [{"path": "gone.jsonl", "kind": "harmful"}]
    (finding,) = run(halves, "report")["safe_set"]
    assert finding["severity"] == "warning"
    assert "the safe set was not examined: gone.jsonl" in finding["fact"]
    assert "gone.jsonl" in Path("out/report.html").read_text()
