"""The steps of a ranking reach experiment trackers."""

import importlib.util
import json

import pytest
from accelerate import tracking as accelerate_tracking

from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.pipeline import trackers
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import check_run, run_stage


class Notebook:
    """A tracker that remembers."""

    requires_logging_directory = True
    made = []  # noqa: RUF012
    fails_at = None

    def __init__(self, project, folder):
        self.project, self.folder, self.config, self.steps, self.finished = project, folder, None, {}, False
        self.made.append(self)

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step):
        if step == self.fails_at:
            raise ConnectionError("no route to host")
        self.steps[step] = values

    def finish(self):
        self.finished = True


@pytest.fixture
def notebook(monkeypatch):
    monkeypatch.setitem(accelerate_tracking.LOGGER_TYPE_TO_CLASS, "notebook", Notebook)
    monkeypatch.setattr(Notebook, "made", [])
    return Notebook


def rank(project, **changes):
    project["rank"] |= changes
    run_stage(run := Run(build_config(project)), "rank")
    return run


def test_every_step_of_a_ranking_is_sent(project, notebook):
    run = rank(project, report_to=["notebook"])
    (made,) = notebook.made
    assert made.project == "sealtune" and made.finished
    assert made.folder == str(run.folder.path("rank"))
    assert made.config["model_name_or_path"] == project["model_name_or_path"]
    assert "'method': 'seal'" in made.config["rank"]
    log = [json.loads(line) for line in run.folder.path("rank/log.jsonl").read_text().splitlines()]
    assert [*made.steps] == [record["step"] for record in log] and len(log) > 4
    for record in log:
        sent = {name.removeprefix("rank/"): value for name, value in made.steps[record["step"]].items()}
        assert sent == {name: record[name] for name in sent}
        assert sent.keys() >= {"safe_loss", "candidate_loss", "gamma", "rows", "tokens"}


def test_a_tracker_that_fails_is_named_once_and_costs_no_ranking(project, notebook, monkeypatch, caplog):
    monkeypatch.setattr(notebook, "fails_at", 3)
    run = rank(project, report_to=["notebook"])
    assert len(run.folder.read_scores()) == 20
    assert [*notebook.made[0].steps] == [1, 2]
    said = [r.getMessage() for r in caplog.records if "report_to" in r.getMessage()]
    assert len(said) == 1 and "notebook stopped: no route to" in said[0]


def test_another_tracker_does_not_rank_again(project, notebook, caplog):
    rank(project)
    with caplog.at_level("INFO", "sealtune"):
        rank(project, report_to=["notebook"])
    assert "skipped" in caplog.text and not notebook.made


def test_a_tracker_that_cannot_be_used_is_named_before_anything_is_ranked(project, notebook, monkeypatch):
    project["tune"]["report_to"] = ["weights_and_biases"]
    with pytest.raises(UserError, match=r"tune.report_to: unknown tracker 'weights_and_biases'; known: .*wandb"):
        check_run(Run(build_config(project)))
    project["tune"]["report_to"] = []
    project["rank"]["report_to"] = ["wandb"]
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name))
    with pytest.raises(UserError, match=r"rank\.report_to: wandb is not installed; pip install wandb"):
        check_run(Run(build_config(project)))
    monkeypatch.setattr(notebook, "store_init_configuration", lambda self, values: 1 / 0)
    with pytest.raises(UserError, match=r"rank\.report_to: notebook does not start: division by zero"):
        rank(project, report_to=["notebook"])


@pytest.mark.parametrize("name", trackers.TRIED)
def test_real_trackers_offline(project, name, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip(name)  # now: some read the environment when they are imported
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    run = rank(project, report_to=[name])
    run_stage(run, "select")
    project["tune"] |= {"report_to": [name], "max_steps": 2}
    run_stage(Run(build_config(project)), "tune")
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert any(name in path.as_posix() or "tfevents" in path.name for path in written)
