"""Other runs beside this one: which of their figures are shown, and which are not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers.hostile_text import HOSTILE
from sealtune.cli.main import app
from sealtune.core.config import Config
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.pipeline.beside import beside, check
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage
from sealtune.pipeline.stages import STAGES


def row(measure, value, model="tuned", n=9, **about):
    where = {"kind": "all", "set": "all", "judge": "", "title": measure, "unit": "score"} | about
    return {
        "model": model,
        "measure": measure,
        "value": value,
        "low": value - 0.1,
        "high": value + 0.1,
        "n": n,
        **where,
    }


OWN = [
    row("discrimination", 0.9, "base"),
    row("discrimination", 0.8),
    row("loss", 1.5, set="held_out", kind="", title="loss", unit="nats"),
    *(row("over_refusal", 0.5, kind="harmless", set=name, judge="refusal", unit="share") for name in ("all", "a")),
]


def config(path, **changes):
    return Config(model_name_or_path="m", output_dir="out", report={"beside": {"plain": str(path)}}, **changes)


def described(tmp_path, evaluation, model="m"):
    """What of another run is shown beside OWN."""
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"model": model, "evaluation": evaluation}))
    (found,) = beside(config(file), OWN)
    return found


def test_the_figures_of_the_tuned_model_get_the_name_of_the_run(tmp_path):
    better = row("discrimination", 0.7) | {"difference": {"value": -0.2, "low": -0.3, "high": -0.1, "p": 0.1}}
    found = described(tmp_path, [row("discrimination", 0.9, "base"), better])
    assert found["name"] == "plain"
    assert found["source"] == str(tmp_path / "results.json")
    assert found["notes"] == []
    (shown,) = found["rows"]
    assert (shown["model"], shown["source"], shown["value"], shown["n"]) == ("plain", found["source"], 0.7, 9)
    assert shown["difference"] == {"value": -0.2, "low": -0.3, "high": -0.1}


def test_figures_of_other_prompts_or_rows_are_left_out_and_named(tmp_path):
    refusals = [row("over_refusal", 0.4, kind="harmless", set=name, judge="refusal") for name in ("all", "b")]
    fewer = row("loss", 1.0, n=5, set="held_out", kind="")
    found = described(tmp_path, [row("discrimination", 0.7), fewer, *refusals, row("acc", 0.5, set="gsm8k")])
    assert [shown["measure"] for shown in found["rows"]] == ["discrimination"]
    assert found["notes"] == [
        "left out, of other prompts or rows than here: loss (held-out), over_refusal (harmless all)",
        "2 figures of it left out that this run does not have",
    ]


def test_answers_without_a_verdict_are_still_of_the_same_prompts(tmp_path):
    rows = [row("over_refusal", 0.4, kind="harmless", set=name, judge="refusal", n=7) for name in ("all", "a")]
    found = described(tmp_path, [one | {"failed": 2} for one in rows])
    assert len(found["rows"]) == 2
    assert described(tmp_path, rows)["rows"] == []


def test_another_start_model_is_said(tmp_path):
    found = described(tmp_path, [row("discrimination", 0.6, "base"), row("discrimination", 0.7)], "other")
    assert found["notes"] == [
        "its start model is other, not m",
        "discrimination (all) of its start model is 0.600, of this one's 0.900: the model, the prompts or rows, or how "
        "they are read differ",
    ]


def test_only_numbers_come_from_the_other_file(tmp_path):
    hostile = row("discrimination", 0.7) | {"title": HOSTILE, "unit": HOSTILE, "low": HOSTILE, "difference": [HOSTILE]}
    found = described(tmp_path, [hostile, row(HOSTILE, 1.0)])
    (shown,) = found["rows"]
    assert shown["low"] is None
    assert "difference" not in shown
    assert (shown["title"], shown["unit"]) == ("discrimination", "score")
    assert found["notes"] == ["1 figure of it left out that this run does not have"]


@pytest.mark.parametrize("value", [None, "1", True, float("nan"), 10**400, [1]])
def test_what_is_no_number_is_no_figure(tmp_path, value):
    found = described(
        tmp_path, [row("loss", 1.0, set="held_out", kind=""), row("discrimination", 0.7) | {"value": value}]
    )
    assert [shown["measure"] for shown in found["rows"]] == ["loss"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; name another run's folder or results.json"),
        ("{", "not valid JSON"),
        ("[]", "has no evaluation of a tuned model"),
        ('{"evaluation": []}', "has no evaluation of a tuned model"),
        ('{"evaluation": [1, {"model": "tuned"}]}', "has no evaluation of a tuned model"),
        (json.dumps({"evaluation": [row("discrimination", 0.9, "base")]}), "has no evaluation of a tuned model"),
    ],
)
@pytest.mark.parametrize("named", ["file", "folder"])
def test_a_run_without_an_evaluation_is_one_line(tmp_path, content, message, named):
    file = tmp_path / "results.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=f"report.beside: plain: .*{message}") as caught:
        check(config(file if named == "file" else tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["a\0b", "no/such/folder", "x" * 5000])
def test_a_path_that_cannot_be_read_is_one_line(path):
    with pytest.raises(UserError, match=r"report\.beside: plain: "):
        check(config(path))


def test_a_run_is_not_shown_beside_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    Path("out/results.json").write_text(json.dumps({"evaluation": OWN}))
    with pytest.raises(UserError, match="is this run's own"):
        check(config(tmp_path / "out"))


@pytest.mark.parametrize("name", ["base", "tuned", " "])
def test_names_of_this_runs_models_are_refused(name):
    with pytest.raises(UserError, match="cannot be the name of another run"):
        build_config({"model_name_or_path": "m", "report": {"beside": {name: "x"}}})


KEEP = Path(__file__).parents[2] / "examples/quickstart/keep_results.py"


@pytest.mark.parametrize(("mode", "dropped", "usable"), [("off", 0, True), ("auto", 0, False), ("off", 1, False)])
def test_the_results_that_the_quickstart_keeps_can_be_shown(tmp_path, mode, dropped, usable):
    content = {"model": "m", "method": "probe", "seed": 0, "rows": {"ranked": 9, "dropped": dropped}, "cost": {}}
    (tmp_path / "full.json").write_text(json.dumps(content | {"evaluation": OWN, "guard": {"mode": mode}}))
    command = [sys.executable, KEEP, tmp_path / "full.json", tmp_path / "kept.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == usable
    assert (tmp_path / "kept.json").exists() == usable
    if usable:
        (found,) = beside(config(tmp_path / "kept.json"), OWN)
        assert (len(found["rows"]), found["notes"]) == (4, [])
        assert "cost" not in json.loads((tmp_path / "kept.json").read_text())
    else:
        assert "make it by: sealtune run" in done.stderr


# -- in a run --------------------------------------------------------------------------------------------------------


def run(values, *stages):
    job = Run(build_config(values))
    for stage in stages or STAGES:
        run_stage(job, stage)
    return json.loads(Path(values["output_dir"], "results.json").read_text())


def test_the_page_and_the_table_show_another_run_beside_this_one(project):
    project["rank"] = {"method": "random"}
    other = run(project | {"output_dir": "plain", "tune": project["tune"] | {"guard": "off"}})
    project["report"] = {"beside": {"all rows <b>": "plain"}}
    results = run(project)
    (beside,) = results["beside"]
    assert beside["notes"] == []
    key = ("measure", "kind", "set", "judge", "value", "low", "high", "n")
    tuned = [row for row in other["evaluation"] if row["model"] == "tuned"]
    assert [[row[k] for k in key] for row in beside["rows"]] == [[row[k] for k in key] for row in tuned]
    assert {row["model"] for row in results["evaluation"]} == {"base", "tuned"}
    page = Path("out/report.html").read_text()
    assert "all rows &lt;b&gt;<br><span" in page
    assert "all rows <b>" not in page

    Path("config.yaml").write_text(json.dumps(project))
    shown = CliRunner().invoke(app, ["report", "config.yaml"], env={"COLUMNS": "200"}).output
    assert "all rows <b> *" in shown
    assert "* all rows <b>: from plain" in shown


def test_the_report_is_made_again_when_the_other_run_changed(project, tmp_path, capsys):
    project["rank"] = {"method": "random"}
    other = tmp_path / "other.json"
    project["report"] = {"beside": {"plain": "other.json"}}
    other.write_text(json.dumps({"evaluation": OWN}))
    run(project)
    capsys.readouterr()
    run(project, "report")
    assert "report: finished before" in capsys.readouterr().err
    other.write_text(json.dumps({"evaluation": OWN, "model": "other"}))
    results = run(project, "report")
    assert "its start model is other" in results["beside"][0]["notes"][0]
