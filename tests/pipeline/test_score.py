"""The saved ranker scores rows that were not ranked."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import sealtune
from helpers.rows import made_rows, write_jsonl
from sealtune.cli.main import app
from sealtune.core.config_io import build_config
from sealtune.pipeline.folder import RunFolder
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage


def cli(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def rows():
    return [json.loads(line) for line in Path("out/score/rows.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def ranked(project):
    project["rank"]["method"] = "probe"
    run = Run(build_config(project))
    for stage in ("rank", "select"):
        run_stage(run, stage)
    return project


def test_ranked_rows_get_nearly_the_same_scores_again(ranked):
    """New rows are scored by the mean of the folds' models, ranked rows by the models of the other folds."""
    done = cli("score", "--out", "out", "--data", "candidates.jsonl", "--json", "--quiet")
    assert json.loads(done.stdout)["scored"] == 20 and done.stderr == ""
    old = pq.read_table("out/rank/scores.parquet").to_pydict()
    new = pq.read_table("out/score/scores.parquet").to_pydict()
    assert new["id"] == old["id"]
    np.testing.assert_allclose(new["loss"], old["loss"], rtol=1e-5)
    assert np.corrcoef(new["score"], old["score"])[0, 1] > 0.8


def test_new_rows_keep_their_columns_and_get_a_verdict(ranked):
    new = [*made_rows(5, 7, note="kept"), {"id": "none", "prompt": "red", "response": ""}]
    write_jsonl(Path("new.jsonl"), new)
    outcome = cli("score", "--out", "out", "--data", "new.jsonl")
    assert outcome.exit_code == 0, outcome.output
    assert "5 rows scored, 1 unusable" in outcome.output
    found = rows()
    assert [{k: v for k, v in row.items() if k != "sealtune"} for row in found] == new
    threshold = json.loads(Path("out/manifest.json").read_text())["stages"]["select"]["threshold"]
    for row in found[:5]:
        added = row["sealtune"]
        assert added["verdict"] == ("keep" if added["score"] >= threshold else "drop")
        assert 0 <= added["above_share_of_ranked_rows"] <= 1
    assert found[5]["sealtune"]["reason"].startswith("empty_response")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--data", "none.jsonl"], "none.jsonl"),
        ([], "--data FILE"),
        (["--data", "held.jsonl", "rank.lora_r=2"], "rank changed since out was ranked"),
        (["--data", "held.jsonl", "rank.method=seal"], "seal scores only the rows that it ranks"),
    ],
)
def test_an_error_is_reported_in_one_line(ranked, words, message):
    outcome = cli("score", "--out", "out", *words)
    assert outcome.exit_code == 2
    assert message in outcome.output
    assert outcome.output.count("error:") == 1


def test_a_changed_selector_is_refused(ranked):
    Path("out/rank/selector.safetensors").write_bytes(b"x")
    outcome = cli("score", "--out", "out", "--data", "held.jsonl")
    assert outcome.exit_code == 2
    assert "selector.safetensors: changed" in outcome.output


@pytest.mark.parametrize("lost", ["trust", "theta.parameter.0"])
def test_a_ranker_saved_by_another_version_is_refused(ranked, monkeypatch, lost):
    saved = RunFolder(Path("out")).read_selector()
    older = {name: value for name, value in saved.items() if name != lost}
    monkeypatch.setattr(RunFolder, "read_selector", lambda self, names=None: older)
    outcome = cli("score", "--out", "out", "--data", "held.jsonl")
    assert outcome.exit_code == 2
    assert "the saved ranker does not fit" in outcome.output and "is missing" in outcome.output
    assert outcome.output.count("error:") == 1


def test_the_estimated_share_is_logged_and_used(ranked):
    outcome = cli("select", "--out", "out", "select.keep_ratio=auto")
    assert outcome.exit_code == 0, outcome.output
    assert "estimated share of unsafe rows" in outcome.output
    assert len(Path("out/select/kept.jsonl").read_text().splitlines()) == 20  # 2 % of 20 rows is less than one row
    assert cli("report", "--out", "out").exit_code == 0
    uncertainty = json.loads(Path("out/results.json").read_text())["uncertainty"]
    assert 0 < uncertainty["reliability"] <= 1
    assert uncertainty["estimated_unsafe"]["share"] == 0
    assert "Uncertainty of the ranking" in Path("out/report.html").read_text()


def test_from_python(tiny_folder):
    settings = {"dtype": "float32", "max_length": 64}
    ranked = sealtune.rank(str(tiny_folder), list(made_rows(12, 1)), list(made_rows(4, 2)), **settings)
    new = sealtune.score(str(tiny_folder), list(made_rows(3, 5)), ranked, **settings)
    assert len(new) == 3
    assert np.isfinite(new.score).all()
