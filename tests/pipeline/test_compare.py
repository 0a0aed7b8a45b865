"""A comparison of several methods, on a model of two layers."""

import json
import os
import signal
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from helpers.rows import made_rows, write_jsonl
from sealtune.cli.main import app
from sealtune.core.config import TuneConfig
from sealtune.core.config_io import build_config
from sealtune.core.errors import RunError, StoppedError, UserError
from sealtune.evaluation import comparison
from sealtune.pipeline.compare import check_method, compare, config_for, plan
from sealtune.ranking import methods

DEFAULT = TuneConfig().guard


@pytest.fixture
def settings(project):
    write_jsonl(Path("refusals.jsonl"), made_rows(4, 8))
    project["compare"] = {
        "methods": ["base", "full", "random", "loss+safeinstr"],
        "seeds": [0, 1],
        "safety_datasets": ["refusals.jsonl"],
    }
    return project


def manifest(method, seed):
    return json.loads(Path(f"out/compare/{method}/seed-{seed}/manifest.json").read_text())


def test_every_method_is_in_one_table_and_trained_for_the_same_steps(settings):
    content = compare(build_config(settings))
    measured = {(row["model"], row["measure"], row["set"]) for row in content["table"]}
    for method in ("base", "full", "random", "loss+safeinstr"):
        assert {
            (method, "attack_success_rate", "all"),
            (method, "over_refusal", "all"),
            (method, "loss", "safe"),
        } <= measured
    tuned = [row for row in content["table"] if row["model"] == "random" and row["measure"] == "attack_success_rate"]
    assert [(row["n"], row["seeds"]) for row in tuned] == [(2, 2)]
    assert {row["seeds"] for row in content["table"] if row["model"] == "base"} == {1}  # asked once
    assert {(m, "discrimination", "all") for m in ("base", "full", "random", "loss+safeinstr")} <= measured
    rows = {method: manifest(method, 0)["stages"]["tune"]["rows"] for method in ("full", "random", "loss+safeinstr")}
    assert rows == {"full": 20, "random": 16, "loss+safeinstr": 20}
    steps = {manifest(m, s)["config"]["tune"]["max_steps"] for m in ("full", "random") for s in (0, 1)}
    assert steps == {2}  # 16 rows in batches of 8
    assert {(s["method"], s["unsafe_rows_dropped"]) for s in content["selection"]} >= {("full", 0)}
    text = Path("out/compare.md").read_text()
    assert "| loss+safeinstr |" in text
    assert "p = " in text
    page = Path("out/compare.html").read_text()
    assert "loss+safeinstr" in page
    assert "Responses side by side" in page


def test_finished_runs_are_reused(settings, capsys):
    first = compare(build_config(settings))
    capsys.readouterr()
    assert compare(build_config(settings)) == first
    log = capsys.readouterr().err
    assert log.count("skipped") == 3 * 2 * 5
    assert "tune: finished in" not in log


def test_a_failing_method_does_not_affect_the_others(settings, monkeypatch):
    original = methods.rank

    def fail_on_loss(job):
        if job.config.rank.method == "loss":
            raise RunError("the loss of row a\x1b[2J is not finite")
        return original(job)

    monkeypatch.setattr(methods, "rank", fail_on_loss)
    Path("config.yaml").write_text(yaml.safe_dump(settings))
    outcome = CliRunner().invoke(app, ["compare", "config.yaml"])
    assert outcome.exit_code == 0, outcome.output
    assert "\x1b[2J" not in outcome.output
    content = json.loads(Path("out/compare.json").read_text())
    assert [(f["method"], f["seed"]) for f in content["failed"]] == [("loss+safeinstr", 0), ("loss+safeinstr", 1)]
    assert {row["model"] for row in content["table"]} == {"base", "full", "random"}
    assert "Failed: loss+safeinstr, seed 0" in Path("out/compare.md").read_text()


def test_the_first_error_is_reported_if_all_methods_fail(settings, monkeypatch):
    def fail(job):
        raise RunError("no luck")

    monkeypatch.setattr(methods, "rank", fail)
    with pytest.raises(RunError, match="every method failed; the first: no luck"):
        compare(build_config(settings))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"methods": ["random", "los"]}, "no ranker 'los'; did you mean 'loss'"),
        ({"methods": ["random", "base+safeinstr"]}, "base"),
        ({"methods": ["full"]}, "compare.reference: random is not among"),
        ({"methods": ["random", "safeinstr"], "safety_datasets": []}, "compare.safety_datasets"),
        ({"seeds": []}, "compare.seeds"),
    ],
)
def test_an_invalid_comparison_is_refused_before_anything_runs(settings, changes, message):
    settings["compare"] |= changes
    Path("config.yaml").write_text(yaml.safe_dump(settings))
    outcome = CliRunner().invoke(app, ["compare", "config.yaml"])
    assert outcome.exit_code == 2
    assert message in outcome.output
    assert not Path("out").exists()


def test_every_ranker_is_a_method_and_every_run_has_its_own_folder(settings):
    for name in methods.names():
        check_method(name)
        check_method(f"{name}+safeinstr")
        check_method(f"{name}+safeinstr+guard")
    for wrong in ("guard+loss", "base+guard", "loss+random", "guard+"):
        with pytest.raises(UserError, match=r"compare\.methods"):
            check_method(wrong)
    with pytest.raises(UserError, match="did you mean"):
        check_method("seall+safeinstr")
    folders = [variant.config.output_dir for variant in plan(build_config(settings))]
    assert folders[0] == "out/compare/full/seed-0"
    assert len(set(folders)) == len(folders) == 6


def test_the_configuration_of_each_method(settings):
    config = build_config(settings | {"select": {"threshold": 0.5, "keep_ratio": 0.7}})
    full, safeinstr, loss = (config_for(config, method, 3, 9) for method in ("full", "safeinstr", "loss+safeinstr"))
    assert (full.seed, full.tune.max_steps, full.output_dir) == (3, 9, "out/compare/full/seed-3")
    for keeps_all in (full, safeinstr):
        assert (keeps_all.rank.method, keeps_all.select.keep_ratio) == ("random", 1.0)
        assert keeps_all.select.threshold is None
    assert (loss.rank.method, loss.select.keep_ratio, loss.select.threshold) == ("loss", 0.7, 0.5)
    assert [len(variant.select.mix_datasets) for variant in (full, safeinstr, loss)] == [0, 1, 1]
    guard, both = (config_for(config, method, 3, 9) for method in ("guard", "loss+safeinstr+guard"))
    assert (guard.rank.method, guard.select.keep_ratio) == ("random", 1.0)
    assert [variant.tune.guard for variant in (full, loss, guard, both)] == ["off", "off", DEFAULT, DEFAULT]
    assert len(both.select.mix_datasets) == 1
    off = build_config(settings | {"tune": {"guard": "off"}})
    assert config_for(off, "guard", 0, 9).tune.guard == DEFAULT
    assert config.rank.method == "seal" and not config.select.mix_datasets  # unchanged


def test_max_steps_can_be_set(settings):
    settings["compare"]["max_steps"] = 3
    assert {variant.config.tune.max_steps for variant in plan(build_config(settings))} == {3}


def test_a_missing_value_leaves_its_cell_empty():
    row = {"model": "a", "measure": "loss", "title": "loss", "unit": "nats", "set": "safe", "kind": "", "judge": ""}
    row |= {"value": 1.0, "low": None, "n": 1, "sd": None, "difference": None}
    content = {"model": "m", "reference": "a", "seeds": [0], "methods": ["a", "b"], "failed": [], "selection": []}
    text = comparison.markdown(content | {"table": [row]})
    assert "| a | 1.000 |  |" in text
    assert "| b |  |  |" in text


def test_methods_with_the_same_ranking_rank_once(settings, capsys):
    settings["compare"] |= {"methods": ["loss", "loss+safeinstr", "loss+guard"], "reference": "loss", "seeds": [0]}
    compare(build_config(settings))
    log = capsys.readouterr().err
    assert log.count("rank: finished in") == 1
    assert "rank: copied from out/compare/loss/seed-0, which has the same inputs" in log
    ranked = [manifest(method, 0)["stages"]["rank"] for method in ("loss", "loss+safeinstr")]
    assert ranked[0]["outputs"] == ranked[1]["outputs"]
    assert ranked[0]["tokens"] == ranked[1]["tokens"]


def test_a_stop_ends_the_whole_comparison(settings, monkeypatch):
    from sealtune.pipeline import step_log

    original = step_log.StepLog.on_step

    def on_step(self, record, total, state):
        os.kill(os.getpid(), signal.SIGTERM)
        original(self, record, total, state)

    monkeypatch.setattr(step_log.StepLog, "on_step", on_step)
    settings["compare"] |= {"methods": ["seal", "random"], "seeds": [0]}
    with pytest.raises(StoppedError, match="stopped after step 1"):
        compare(build_config(settings))
    assert not Path("out/compare/random").exists()
