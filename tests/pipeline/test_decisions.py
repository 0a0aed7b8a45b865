"""People overrule a ranking: what is kept, what is written down, and what the ranker learns."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import sealtune
from helpers.tiny import random_rows, tiny_model
from sealtune.cli import main
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.core.types import Decision
from sealtune.pipeline import overview, results
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import check_run, run_stage
from sealtune.pipeline.stages import STAGES
from sealtune.ranking import methods
from sealtune.ranking.job import Job

AT = "2026-11-27T18:00:00+00:00"


def decision(row_id, verb, **more):
    return {"id": row_id, "decision": verb, "by": "Ann", "at": AT, **more}


def write(path, *rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def ranked_run(project, **select):
    rank = {"method": "loss", "per_device_train_batch_size": 4}
    job = Run(build_config({**project, "rank": rank, "select": {"keep_ratio": 0.5, **select}}))
    run_stage(job, "rank")
    return job


def test_decisions_are_obeyed_written_down_and_counted(project):
    job = ranked_run(project, decisions="d.jsonl")
    scores = job.folder.read_scores()
    order = [scores.ids[i] for i in np.argsort(-scores.score)]
    best, worst, unsure = order[0], order[-1], order[1]
    write("d.jsonl", decision(best, "drop", note="names a person"), decision(worst, "keep"), decision(unsure, "unsure"))
    run_stage(job, "select")
    kept = {row["id"] for row in read("out/select/kept.jsonl")}
    assert len(kept) == 10 and worst in kept and best not in kept and unsure in kept
    dropped = {row["id"]: row["sealtune"] for row in read("out/select/dropped.jsonl")}
    assert dropped[best]["reason"] == "decision" and dropped[best]["rank"] == 1
    assert dropped[best]["decision"] == decision(best, "drop", note="names a person")
    assert {about["reason"] for row_id, about in dropped.items() if row_id != best} == {
        "below the best 0.5 of the rows"
    }
    written = {
        row["id"]: (row["kept"], row["overruled"], row["by"], row["at"]) for row in read("out/select/decisions.jsonl")
    }
    assert written == {
        best: (False, True, "Ann", AT),
        worst: (True, True, "Ann", AT),
        unsure: (True, False, "Ann", AT),
    }
    found = results.read_findings(job.folder)
    collected = results.collect(job, found)
    assert collected["decisions"] == {"kept": 1, "dropped": 1, "unsure": 1, "overruled": 2}
    view = results.view(job, found, collected)
    assert view.decisions[best] == Decision(best, "drop", "Ann", AT, "names a person")
    assert job.folder.manifest().stages["select"].threshold == overview.overview(job, 3).threshold
    assert overview.overview(job, 3).threshold > scores.score.min()


def test_a_changed_file_selects_again_and_its_name_does_not_count(project, capsys):
    job = ranked_run(project, decisions="d.jsonl")
    write("d.jsonl", decision("1-3", "drop"))
    run_stage(job, "select")
    write("same.jsonl", decision("1-3", "drop"))
    job.config.select.decisions = "same.jsonl"
    capsys.readouterr()
    run_stage(job, "select")
    assert "skipped" in capsys.readouterr().err
    write("same.jsonl", decision("1-3", "drop"), decision("1-3", "keep"))
    run_stage(job, "select")
    assert "1 of the rows kept and 0 more dropped by decision" in capsys.readouterr().err
    job.config.select.decisions = None
    run_stage(job, "select")
    assert (
        read("out/select/decisions.jsonl") == []
        and results.collect(job, results.read_findings(job.folder))["decisions"] is None
    )
    assert "decisions" not in job.folder.manifest().stages["select"].inputs


def test_a_mistake_shows_before_anything_is_ranked(project):
    write("d.jsonl", decision("1-3", "drop"), decision("nobody", "keep"))
    for stage in ("rank", "select"):
        job = Run(build_config({**project, stage: {"decisions": "d.jsonl"}}))
        with pytest.raises(UserError, match=r"d\.jsonl, line 2: no candidate has the id 'nobody'"):
            check_run(job)
    done = CliRunner().invoke(main.app, ["tune", "--out", "x", "--model", "m", "--decisions", "d.jsonl"])
    assert done.exit_code == 2 and "--decisions: has no effect on tune" in done.stderr


def test_the_command_line_gives_them_to_the_stages_that_read_them(project):
    ranked_run(project)
    write("d.jsonl", decision("1-3", "drop"))
    done = CliRunner().invoke(main.app, ["select", "--out", "out", "--decisions", "d.jsonl", "--json"])
    assert done.exit_code == 0, done.stderr
    assert [row["decision"] for row in read("out/select/decisions.jsonl")] == ["drop"]
    assert json.loads(done.stdout)["stages"]["select"]["rows"] == 10


def test_a_ranking_and_the_python_api_are_given_them(project, tiny_folder):
    write("d.jsonl", decision("1-3", "keep"), decision("1-4", "drop"))
    words = ["--model", str(tiny_folder), "--data", "candidates.jsonl", "--safe", "safe.jsonl", "rank.method=dsir"]
    done = CliRunner().invoke(main.app, ["rank", *words, "--out", "x", "--decisions", "d.jsonl"])
    assert done.exit_code == 0 and "rank: 1 row marked keep joined the safe set; dsir cannot" in done.stderr
    ranked = Run(build_config({**project, "output_dir": "x"})).folder
    assert "decisions" in ranked.manifest().stages["rank"].inputs
    settings = {"method": "dsir", "decisions": "d.jsonl"}
    scores = sealtune.rank(str(tiny_folder), "candidates.jsonl", "safe.jsonl", rank=settings)
    assert scores.by_id() == ranked.read_scores().by_id()
    assert (
        scores.by_id()
        != sealtune.rank(str(tiny_folder), "candidates.jsonl", "safe.jsonl", rank={"method": "dsir"}).by_id()
    )
    kept = sealtune.select(scores, keep_ratio=0.1, decisions="d.jsonl").kept
    assert len(kept) == 2 and "1-3" in kept and "1-4" not in kept


def job_of(method, decisions):
    values = {"model_name_or_path": "m", "rank": {"method": method, "num_train_epochs": 1}}
    config = build_config(values)
    made = {row_id: Decision(row_id, verb, "Ann", AT) for row_id, verb in decisions.items()}
    safe = random_rows(12, seed=1, prefix="safe")
    return Job(random_rows(24), safe, config, lambda full: tiny_model(), decisions=made)


def test_the_probe_learns_from_them_and_is_the_same_without():
    plain, unsure, taught = (
        methods.rank(job_of("probe", made))
        for made in (
            {},
            {"row-003": "unsure", "gone": "drop"},
            {"row-003": "drop", "row-004": "keep", "row-005": "drop"},
        )
    )
    assert np.array_equal(plain.score, unsure.score) and np.array_equal(plain.standard_error, unsure.standard_error)
    assert not np.array_equal(plain.score, taught.score)
    assert not np.array_equal(plain.probe_logit, taught.probe_logit)
    assert np.array_equal(plain.loss, taught.loss), "the model's features are those without decisions"


def test_a_ranking_depends_on_the_content_of_the_file_alone(project):
    def inputs(**rank):
        return STAGES["rank"].depends_on(Run(build_config({**project, "rank": rank})))

    write("d.jsonl", decision("1-3", "drop"))
    write("same.jsonl", decision("1-3", "drop"))
    first = inputs(decisions="d.jsonl")
    assert first == inputs(decisions="same.jsonl") != inputs() and "decisions" not in inputs()
    assert first["rank"] == inputs()["rank"]
    write("d.jsonl", decision("1-3", "keep"))
    assert first != inputs(decisions="d.jsonl")
    with pytest.raises(UserError, match=r"none\.jsonl: no such file of decisions"):
        inputs(decisions="none.jsonl")


def test_other_rankers_learn_from_kept_rows_alone_and_say_so(caplog):
    caplog.set_level(logging.INFO, "sealtune")
    logging.getLogger("sealtune").propagate = True
    plain = methods.rank(job_of("dsir", {}))
    kept = methods.rank(job_of("dsir", {"row-003": "keep", "row-004": "drop"}))
    dropped = methods.rank(job_of("dsir", {"row-004": "drop"}))
    assert list(kept.ids) == list(plain.ids)
    assert np.array_equal(plain.score, dropped.score) and not np.array_equal(plain.score, kept.score)
    assert kept.score[3] > plain.score[3]
    assert (
        caplog.messages[0]
        == "rank: 1 row marked keep joined the safe set; dsir cannot learn from the 1 row marked drop"
    )


def test_decisions_are_plain_records():
    assert asdict(Decision("a", "keep", "Ann", AT)) == decision("a", "keep", note="")
