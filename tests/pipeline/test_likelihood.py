"""The measures without generated answers, in a run."""

import json
from pathlib import Path

import pytest

from helpers.few_prompts import all_shipped
from helpers.judge_server import serving
from helpers.rows import write_jsonl
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.core.types import Response
from sealtune.pipeline.likelihood import Likelihood
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage

MEASURES = {"discrimination", "J", "refusal_rate", "log_odds", "kl"}


@pytest.fixture
def tuned(project):
    """A run up to its evaluation, by the cheapest ranker."""
    project["rank"] = {"method": "random"}
    job = Run(build_config(project))
    for stage in ("rank", "select", "tune"):
        run_stage(job, stage)
    return project


def evaluate(project, force=False, **settings):
    job = Run(build_config(project | {"evaluate": project["evaluate"] | settings}))
    run_stage(job, "evaluate", force=force)
    return job


def table():
    return json.loads(Path("out/evaluate/results.json").read_text())


def read(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def no_model(monkeypatch):
    monkeypatch.setattr("sealtune.models.load.load_model", lambda *a, **k: pytest.fail("a model was loaded"))


def test_a_run_without_prompts_is_measured_on_those_that_are_shipped(tuned, monkeypatch):
    monkeypatch.setattr("sealtune.evaluation.likelihood.default_prompts", all_shipped)
    job = evaluate(tuned, prompts=[])
    rows = table()
    assert {r["measure"] for r in rows} == MEASURES | {"loss"}
    assert {r["model"] for r in rows if r["measure"] == "J"} == {"base", "tuned"}
    assert [r["measure"] for r in rows[:2]] == ["discrimination", "J"]
    assert next(r["difference"] for r in rows if r["model"] == "tuned")["n"] == 200
    per_prompt = read("out/evaluate/likelihood.jsonl")
    assert len(per_prompt) == 2 * 200
    assert per_prompt[0].keys() == {*("id", "model", "set", "kind", "log_odds", "refusal_log_prob")}
    openings = json.loads(Path("out/evaluate/openings.json").read_text())
    assert "I'm sorry" in openings["refusals"]
    assert len(openings["thresholds"]) == 2
    run_stage(job, "report")
    page = Path("out/report.html").read_text()
    assert 'id="figure-trade_off"' in page
    assert "log-odds above the start threshold" in page


def test_prompts_of_both_kinds_replace_those_that_are_shipped(tuned):
    evaluate(tuned)
    assert {row["set"] for row in read("out/evaluate/likelihood.jsonl")} == {"ask", "ok"}


def test_it_can_be_turned_off(tuned):
    evaluate(tuned)
    evaluate(tuned, likelihood=False)
    assert not MEASURES & {r["measure"] for r in table()}
    assert "evaluate/likelihood.jsonl" not in Run(build_config(tuned)).folder.manifest().stages["evaluate"].outputs


def test_what_is_stored_is_not_measured_again(tuned, monkeypatch):
    evaluate(tuned)
    before = table()
    no_model(monkeypatch)
    evaluate(tuned, force=True)
    assert table() == before


@pytest.mark.parametrize("what", ["likelihood_tuned", "first_tokens_base", "divergence_tuned"])
def test_what_is_damaged_is_measured_again(tuned, what):
    evaluate(tuned)
    before = table()
    (file,) = Path("out/evaluate").glob(f"{what}_*.jsonl")
    content = file.read_text()
    file.write_text(content[: len(content) // 2])
    evaluate(tuned, force=True)
    assert file.read_text() == content
    assert table() == before


def test_another_tuned_model_is_measured_anew_but_not_the_start_model(tuned):
    evaluate(tuned)
    first = {path.name for path in Path("out/evaluate").glob("likelihood_*.jsonl")}
    tuned["tune"] |= {"learning_rate": 0.02}
    run_stage(Run(build_config(tuned)), "tune")
    evaluate(tuned)
    second = {path.name for path in Path("out/evaluate").glob("likelihood_*.jsonl")}
    assert len(second) == 2
    assert {name[:16] for name in first & second} == {"likelihood_base_"}


def test_without_the_start_model_in_the_table_its_threshold_still_counts(tuned):
    evaluate(tuned)
    expected = [r for r in table() if r["model"] == "tuned" and r["measure"] == "J"]
    evaluate(tuned, base=False)
    assert {r["model"] for r in table()} == {"tuned"}
    assert [r for r in table() if r["measure"] == "J"] == expected


def test_a_served_model_is_skipped(tuned):
    with serving(lambda body: "Sure.") as server:
        endpoint = {"base_url": server.url, "model": "m", "max_retries": 0}
        evaluate(tuned, endpoints={"base": endpoint})
        assert {r["model"] for r in table() if r["measure"] == "discrimination"} == {"tuned"}
        assert "kl" not in {r["measure"] for r in table()}
        evaluate(tuned, endpoints={"base": endpoint, "tuned": endpoint})
        assert not MEASURES & {r["measure"] for r in table()}


def test_pairs_of_answers_are_compared(tuned):
    write_jsonl(Path("pairs.jsonl"), [{"prompt": "red", "safe": "no", "unsafe": "yes, all"}] * 3)
    evaluate(tuned, pairs="pairs.jsonl")
    rows = [r for r in table() if r["measure"] == "pair_margin"]
    assert [(r["model"], r["n"], r["set"]) for r in rows] == [("base", 3, "pairs"), ("tuned", 3, "pairs")]
    with pytest.raises(UserError, match=r"no column 'safe'"):
        write_jsonl(Path("pairs.jsonl"), [{"prompt": "red"}])
        evaluate(tuned, pairs="pairs.jsonl")


def test_pairs_without_likelihood_are_refused(project):
    with pytest.raises(UserError, match="pairs: they are compared by likelihood"):
        build_config(project | {"evaluate": {"likelihood": False, "pairs": "pairs.jsonl"}})


def test_a_context_too_short_for_any_prompt_is_said(tuned, caplog):
    evaluate(tuned, prompts=[], max_prompt_length=8)
    assert "likelihood: nothing is measured: no harmful or no harmless prompt fits into the model" in caplog.messages
    assert "discrimination" not in {row["measure"] for row in table()}


def test_openings_are_taken_from_the_answers_of_the_start_model_and_of_the_safe_set(tuned, monkeypatch):
    def known(own):
        config = build_config(tuned)
        config.evaluate.own_openings = own  # a comparison turns it off: not all of its runs ask the start model
        answers = [Response("a", "base", "s", "harmful", "p", "That is not on, I cannot help.", 4, True)] * 3
        return Likelihood(Run(config), {}, lambda: answers).texts

    assert "That is" in known(True)
    assert "That is" not in known(False)
    safe = [{"prompt": "p", "response": "Quite so, I cannot help."}] * 3
    write_jsonl(Path("safe.jsonl"), [{"id": str(i), **row} for i, row in enumerate(safe)])
    assert "Quite so," in known(False)
