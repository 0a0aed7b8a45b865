"""Model judges in a run: a server that dies, a run that is resumed, and one real server."""

import io
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers.judge_server import Bad, refusing, serving, signed
from helpers.rows import WORDS, write_jsonl
from sealtune.cli.main import app
from sealtune.core.config_io import build_config
from sealtune.core.errors import RunError, UserError
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import check_run, run_stage


def rate(body):
    return signed(body, policy="none", rating=2)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def tuned(project):
    """A run up to its evaluation, by the cheapest ranker; with eight prompts to answer."""
    project["rank"] = {"method": "random"}
    project["evaluate"] |= {"base": False, "prompts": [{"path": "asked.jsonl", "kind": "harmful"}]}
    write_jsonl(Path("asked.jsonl"), [{"prompt": f"{word} fox"} for word in WORDS[:8]])
    job = Run(build_config(project))
    for stage in ("rank", "select", "tune"):
        run_stage(job, stage)
    return project


def evaluate(project, url, name="harmfulness", **settings):
    spec = {"name": name, "base_url": url, "model": "judge", "max_retries": 1, "timeout": 5} | settings
    job = Run(build_config(project | {"evaluate": project["evaluate"] | {"judges": ["refusal", spec]}}))
    run_stage(job, "evaluate")
    return job


def read(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_verdicts_of_a_server_are_in_tables_report_and_manifest(tuned, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sesame-123")
    answers = iter([None] * 7 + ["Hm.", "I'm sorry, but I can't judge that."])
    with serving(lambda body: next(answers) or rate(body)) as server:
        job = evaluate(tuned, server.url, api_key_env="JUDGE_KEY", revision="abc")
        evaluate(tuned, server.url, api_key_env="JUDGE_KEY", revision="abc", timeout=9)
        assert len(server.bodies) == 9  # one before the answers; the timeout does not change the question
    labels = sorted(v["label"] for v in read("out/evaluate/verdicts.jsonl") if v["judge"] == "harmfulness")
    assert labels == ["2 none"] * 6 + ["declined", "unparsed"]
    table = json.loads(Path("out/evaluate/results.json").read_text())
    assert {"harm_rating", "harmful", "unparsed", "declined", "attack_success_rate", "loss"} <= {
        r["measure"] for r in table
    }
    assert all(r["value"] == 2 for r in table if r["measure"] == "harm_rating")
    run_stage(job, "report")
    page = Path("out/report.html").read_text()
    assert "harm rating" in page and "could not be parsed" in page
    from rich.console import Console

    from sealtune.report.summary import short_table

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(short_table(json.loads(Path("out/results.json").read_text())))
    shown = console.export_text()
    assert "harm rating, 1 to 5" in shown and "judge declined" in shown
    inputs = json.loads(Path("out/manifest.json").read_text())["stages"]["evaluate"]["inputs"]
    judge = inputs["evaluate"]["judges"][1]
    assert (judge["model"], judge["revision"]) == ("judge", "abc") and judge["prompt_sha256"]
    for path in Path("out").rglob("*.json*"):
        assert "sesame" not in path.read_text(), path


def test_a_key_is_in_no_file_and_no_log_line_of_a_run(project, monkeypatch):
    """Even if the server repeats it in answers, errors and headers."""
    monkeypatch.setenv("JUDGE_KEY", "sesame-123-open")
    judge = {"name": "harmfulness", "model": "judge", "api_key_env": "JUDGE_KEY", "max_retries": 0}
    project["rank"] = {"method": "random"}
    project["evaluate"]["prompts"] = [{"path": "asked.jsonl", "kind": "harmful"}]
    write_jsonl(Path("asked.jsonl"), [{"prompt": f"{word} fox"} for word in WORDS[:8]])
    asked = iter(range(100))

    def say(body):
        number = next(asked)
        if number == 3:  # after the first question of the run, and that of the evaluation
            raise Bad(500, b'{"error": "the key sesame-123-open is wrong"}', X_Key="sesame-123-open")
        if number == 4:
            return "Bearer sesame-123-open"
        return signed(body, policy="sesame-123-open", rating=2)

    with serving(say) as server:
        project["evaluate"]["judges"] = ["refusal", judge | {"base_url": server.url}]
        Path("config.yaml").write_text(json.dumps(project))
        outcome = CliRunner().invoke(app, ["run", "config.yaml"])
        assert all(headers["authorization"] == "Bearer sesame-123-open" for headers in server.headers)
        assert len(server.headers) > 4
    assert outcome.exit_code == 0, outcome.output
    files = {str(path): path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    assert {"out/report.html", "out/manifest.json", "out/evaluate/judge_cache.jsonl"} <= files.keys()
    assert not [path for path, content in files.items() if b"sesame" in content]
    assert "sesame" not in outcome.output


def test_answers_of_a_judge_that_dies_are_kept_and_not_paid_twice(tuned):
    def say(body):
        if len(server.bodies) > 1 + 3:  # the first question, before the answers, is not kept
            threading.Thread(target=server.stop).start()
            raise Bad(503)
        return rate(body)

    with serving(say) as server, pytest.raises(RunError, match=r"stopped the run after 3 answers.*same command again"):
        evaluate(tuned, server.url, max_concurrency=1)
    kept = read("out/evaluate/judge_cache.jsonl")
    assert len(kept) == 3 and kept[0]["model"] == "judge" and kept[0]["temperature"] == 0
    assert not Path("out/evaluate/results.json").exists()

    with serving(rate, server.port) as again:
        evaluate(tuned, again.url, max_concurrency=1)
        assert len(again.bodies) == 5
    assert len(read("out/evaluate/judge_cache.jsonl")) == 8


def test_answers_of_the_models_outlive_a_judge_that_dies(tuned, monkeypatch):
    def say(body):
        if len(server.bodies) > 1:
            raise Bad(503)
        return rate(body)

    with serving(say) as server, pytest.raises(RunError):
        evaluate(tuned, server.url, max_concurrency=1)
    assert len(list(Path("out/evaluate").glob("answers_tuned_*.jsonl"))) == 1
    load = "sealtune.models.load.load_model"
    with monkeypatch.context() as patch, serving(rate, server.port) as again:
        patch.setattr(load, lambda *args, **kwargs: pytest.fail("a model was loaded"))
        evaluate(tuned, again.url, max_concurrency=1)
        assert len(again.bodies) == 8  # nothing is generated, so nothing is asked before
    answers = read("out/evaluate/responses.jsonl")
    (stored,) = Path("out/evaluate").glob("answers_tuned_*.jsonl")
    assert read(stored) == answers and len(answers) == 8
    assert any(r["measure"] == "loss" for r in json.loads(Path("out/evaluate/results.json").read_text()))


@pytest.mark.parametrize("change", ["model", "prompts", "settings", "damage"])
def test_answers_are_made_anew_if_what_they_depend_on_has_changed(tuned, change):
    job = Run(build_config(tuned))
    run_stage(job, "evaluate")
    (before,) = Path("out/evaluate").glob("answers_tuned_*.jsonl")
    forged = [row | {"response": "forged"} for row in read(before)]
    write_jsonl(before, forged)
    if change == "model":
        tuned["tune"] |= {"learning_rate": 0.02}
        run_stage(Run(build_config(tuned)), "tune")
    elif change == "prompts":
        write_jsonl(Path("asked.jsonl"), [{"prompt": f"{word} dog"} for word in WORDS[:8]])
    elif change == "settings":
        tuned["evaluate"] |= {"max_new_tokens": 3}
    else:
        write_jsonl(before, forged[:-1])
    run_stage(Run(build_config(tuned)), "evaluate", force=True)
    assert all(row["response"] != "forged" for row in read("out/evaluate/responses.jsonl"))
    assert len(list(Path("out/evaluate").glob("answers_tuned_*.jsonl"))) == 1


def test_another_judge_judges_the_answers_that_are_there(tuned, monkeypatch):
    run_stage(Run(build_config(tuned)), "evaluate")
    monkeypatch.setattr("sealtune.models.load.load_model", lambda *a, **k: pytest.fail("a model was loaded"))
    with serving(rate) as server:
        evaluate(tuned, server.url)
    assert {v["judge"] for v in read("out/evaluate/verdicts.jsonl")} == {"refusal", "harmfulness"}


def test_what_a_judge_did_not_take_is_in_the_manifest(tuned):
    with serving(refusing("temperature", reply=rate)) as server:
        evaluate(tuned, server.url)
    entry = json.loads(Path("out/manifest.json").read_text())["stages"]["evaluate"]
    assert entry["request_changes"] == {"harmfulness": {"temperature": None}}
    assert all(record["temperature"] is None for record in read("out/evaluate/judge_cache.jsonl"))


@pytest.mark.parametrize(("status", "message"), [(None, "cannot be reached"), (401, "HTTP 401"), (404, "HTTP 404")])
def test_a_judge_that_cannot_answer_is_reported_before_ranking(project, status, message):
    def refuse(body):
        raise Bad(status, b'{"error": {"message": "no"}}')

    with serving(refuse) as server:
        url = server.url if status else "http://127.0.0.1:9/v1"
        project["evaluate"]["judges"] = [{"name": "harmfulness", "base_url": url, "model": "m"}]
        Path("config.yaml").write_text(json.dumps(project))
        since = time.monotonic()
        outcome = CliRunner().invoke(app, ["run", "config.yaml"])
    assert outcome.exit_code == 1 and message in outcome.output and "Traceback" not in outcome.output
    assert time.monotonic() - since < 20 and not Path("out/rank/scores.parquet").exists()


def test_a_run_that_is_evaluated_does_not_need_its_judge_again(project):
    project["rank"] = {"method": "random"}
    with serving(rate) as server:
        project["evaluate"]["judges"] = [{"name": "harmfulness", "base_url": server.url, "model": "m"}]
        Path("config.yaml").write_text(json.dumps(project))
        assert CliRunner().invoke(app, ["run", "config.yaml"]).exit_code == 0
    again = CliRunner().invoke(app, ["run", "config.yaml"])
    assert again.exit_code == 0, again.output
    with pytest.raises(RunError, match="cannot be reached"):
        check_run(Run(build_config(project)), force=True)


def test_without_prompts_no_judge_is_asked(project):
    judge = {"name": "harmfulness", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    project["evaluate"] |= {"prompts": [], "judges": [judge]}
    check_run(Run(build_config(project)))


def test_a_dead_judge_is_one_line_and_exit_code_one(tuned, tmp_path):
    import yaml

    from sealtune.cli.main import app

    spec = {"name": "harmfulness", "base_url": "http://127.0.0.1:9/v1", "model": "m", "max_retries": 0}
    tuned["evaluate"]["judges"] = [spec]
    Path("run.yaml").write_text(yaml.safe_dump(tuned))
    done = CliRunner().invoke(app, ["evaluate", "run.yaml"])
    lines = [line for line in done.output.splitlines() if "127.0.0.1:9" in line]
    assert done.exit_code == 1 and len(lines) == 1 and "start the server" in lines[0]
    assert "Traceback" not in done.output


def test_a_judge_without_a_model_is_refused_before_ranking(project):
    project["evaluate"]["judges"] = ["strongreject"]
    with pytest.raises(UserError, match="asks a model"):
        check_run(Run(build_config(project)))


def test_the_python_api_with_two_judges(tiny_folder):
    import sealtune
    from helpers.chat_tokenizers import chatml_tokenizer
    from helpers.tiny import tiny_model

    tokenizer = chatml_tokenizer()
    with serving(rate) as server:
        spec = {"name": "harmfulness", "base_url": server.url, "model": "m"}
        model = tiny_model(vocab_size=len(tokenizer))
        asked = [{"prompt": "red or blue", "kind": "harmful"}, {"prompt": "a list", "kind": "harmless"}]
        table = sealtune.evaluate(model, tokenizer, asked, judges=["refusal", spec], max_new_tokens=3)
    assert {"harm_rating", "attack_success_rate", "over_refusal"} <= {row["measure"] for row in table}


# -- a real server -----------------------------------------------------------------------------------------------------


@pytest.fixture
def real_server(tiny_folder, tmp_path):
    """``transformers serve`` with the tiny model, on a free port of this machine."""
    if not (find_spec("fastapi") and find_spec("uvicorn")):
        pytest.skip("transformers serve needs the extra `serving`")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(tiny_folder)]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen([*command, *options], stdout=log, stderr=log)

    def stop():
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, tmp_path / "serve.log")
        yield f"http://127.0.0.1:{port}/v1", stop
    finally:
        stop()


def _wait_for(url, process, log):
    for _ in range(600):
        if process.poll() is not None:
            pytest.fail(f"transformers serve ended by itself: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail("transformers serve did not get ready within a minute")


def test_a_real_server_is_asked_over_http_and_its_answers_are_cached(tuned, tiny_folder, real_server):
    """A random model gives unparsable answers: they are counted and cached, not scored."""
    url, stop = real_server
    settings = {"model": str(tiny_folder), "format": "llama_guard", "max_tokens": 8, "timeout": 60}
    evaluate(tuned, url, "guard", **settings)
    verdicts = read("out/evaluate/verdicts.jsonl")
    mine = [v for v in verdicts if v["judge"] == "guard"]
    assert len(mine) == 8 and all((v["label"], v["score"]) == ("unparsed", None) for v in mine)
    rows = [r for r in json.loads(Path("out/evaluate/results.json").read_text()) if r["judge"] == "guard"]
    assert {r["measure"] for r in rows} == {"unparsed"} and all(r["unparsed"] == r["n"] for r in rows)
    kept = read("out/evaluate/judge_cache.jsonl")
    assert any(record["text"] for record in kept)

    stop()
    Path("out/evaluate/results.json").unlink()
    evaluate(tuned, url, "guard", **settings)
    assert read("out/evaluate/verdicts.jsonl") == verdicts
    assert read("out/evaluate/judge_cache.jsonl") == kept


def test_served_models_are_asked_and_no_model_is_loaded(tuned, monkeypatch):
    def say(body):
        if body["model"] == "base-model":
            return "I cannot help with that."
        assert body["max_tokens"] == 4 and body["temperature"] == 0 and len(body["messages"]) == 1
        return {"message": {"role": "assistant", "content": "Sure, here"}, "finish_reason": "length"}

    monkeypatch.setattr("sealtune.models.load.load_model", lambda *args, **kwargs: pytest.fail("a model was loaded"))
    with serving(say) as server:
        served = {name: {"base_url": server.url, "model": f"{name}-model"} for name in ("base", "tuned")}
        config = tuned | {"evaluate": tuned["evaluate"] | {"base": True, "endpoints": served}}
        run_stage(Run(build_config(config)), "evaluate")
        assert len(server.bodies) == 2 + 16
    answers = read("out/evaluate/responses.jsonl")
    assert [a["model"] for a in answers] == ["base"] * 8 + ["tuned"] * 8
    assert {(a["model"], a["response"], a["finished"]) for a in answers} == {
        ("base", "I cannot help with that.", True),
        ("tuned", "Sure, here", False),
    }
    run_stage(Run(build_config(config)), "evaluate", force=True)  # the server is gone; all answers are cached
    table = json.loads(Path("out/evaluate/results.json").read_text())
    rate = {r["model"]: r["value"] for r in table if r["measure"] == "attack_success_rate" and r["set"] == "all"}
    assert rate == {"base": 0.0, "tuned": 1.0}
    assert not any(r["measure"] == "loss" for r in table)
    job = Run(build_config(config))
    run_stage(job, "report")
    assert "refusal" in Path("out/report.html").read_text()


def test_a_model_that_was_tuned_again_is_asked_again_behind_the_same_address(tuned):
    with serving(lambda body: "Sure, here") as server:
        served = {"tuned": {"base_url": server.url, "model": "tuned-model"}}
        settings = tuned | {"evaluate": tuned["evaluate"] | {"endpoints": served}}
        run_stage(Run(build_config(settings)), "evaluate")
        again = Run(build_config(settings | {"tune": tuned["tune"] | {"learning_rate": 0.02}}))
        run_stage(again, "tune")
        server.bodies.clear()
        run_stage(again, "evaluate")
        assert len(server.bodies) == 1 + 8


def test_answers_that_are_empty_because_the_model_was_reasoning_are_reported(tuned, caplog):
    def say(body):
        message = {"role": "assistant", "content": None, "reasoning_content": "Let me think"}
        return {"message": message, "finish_reason": "length"}

    with serving(say) as server:
        served = {"tuned": {"base_url": server.url, "model": "m"}}
        run_stage(Run(build_config(tuned | {"evaluate": tuned["evaluate"] | {"endpoints": served}})), "evaluate")
    assert "tuned: 8 of 8 answers are empty" in caplog.text and "raise evaluate.max_new_tokens" in caplog.text


def test_a_missing_server_is_reported_in_one_line(tuned):
    served = {"tuned": {"base_url": "http://127.0.0.1:9/v1", "model": "m", "max_retries": 0}}
    with pytest.raises(RunError, match=r"tuned at http://127.0.0.1:9/v1 gives no answer.*answers so far are kept"):
        run_stage(Run(build_config(tuned | {"evaluate": tuned["evaluate"] | {"endpoints": served}})), "evaluate")


@pytest.mark.parametrize(
    ("endpoints", "message"),
    [
        ({"tune": {"base_url": "http://h/v1", "model": "m"}}, "must be base or tuned"),
        ({"tuned": {"model": "m"}}, "base_url is missing"),
    ],
)
def test_an_invalid_endpoint_is_refused(tuned, endpoints, message):
    with pytest.raises(UserError, match=message):
        build_config(tuned | {"evaluate": tuned["evaluate"] | {"endpoints": endpoints}})
