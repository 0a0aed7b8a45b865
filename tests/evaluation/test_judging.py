"""Several judges at work on one run's answers: what they need is told before, what they could not judge after."""

from contextlib import contextmanager

import pytest

from helpers.judge_server import Bad, question_of, serving, signed
from sealtune.core.config import EvaluateConfig
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.core.types import Response
from sealtune.evaluation.judging import by_rule, check, faults, identities, judge_all, tabulate


@contextmanager
def quiet(title):
    yield lambda *_, **__: None


def settings(*judges, **others):
    values = {"model_name_or_path": "m", "evaluate": {"judges": list(judges), **others}}
    return build_config(values).evaluate


def answers(n=4):
    return [
        Response(f"{kind}-{i}", model, f"set{i % 2}", kind, f"request {i}", f"{model} {kind} {i}", 3, True)
        for kind in ("harmful", "harmless")
        for model in ("base", "tuned")
        for i in range(n)
    ]


@pytest.mark.parametrize(
    "judges, told",
    [
        (["refusl"], "did you mean 'refusal'"),
        (["harmfulness"], "asks a model.*base_url"),
        ([{"name": "guard", "base_url": "http://a/v1"}], "asks a model"),
        ([{"name": "harmfulness", "model": "m", "format": "wildguard"}], "format belongs to the guard"),
        ([{"name": "guard", "base_url": "http://a/v1", "model": "m", "api_key_env": "NOT_SET"}], "NOT_SET is not set"),
        (["refusal", "refusal"], "stands twice"),
    ],
)
def test_what_a_judge_lacks_is_told_before_anything_is_asked(judges, told):
    with pytest.raises(UserError, match=told):
        check(settings(*judges))


def test_a_judge_without_a_model_has_no_identity():
    with pytest.raises(UserError, match="asks a model"):
        identities(settings("strongreject"))


def test_pairwise_needs_the_base():
    with pytest.raises(UserError, match=r"evaluate\.base=true"):
        check(settings({"name": "pairwise", "model": "m"}, base=False))


def test_each_judge_has_its_table_and_faults_are_counted_apart():
    def say(body):
        text = question_of(body)
        if "tuned harmful 1" in text:
            return "Hm."
        if "tuned harmful 2" in text:
            raise Bad(400, b"{}")
        if "tuned harmful 3" in text:
            return "I'm sorry, but I can't assist with that."
        tuned = "tuned" in text
        return signed(body, policy="malware" if tuned else "none", rating=5 if tuned else 2)

    with serving(say) as server:
        config = settings("refusal", {"name": "harmfulness", "base_url": server.url, "model": "m"})
        verdicts = judge_all(answers(), config, {}, quiet)
    assert len(verdicts) == 32 and len(by_rule(verdicts)) == 16
    rows = {
        (r["model"], r["kind"], r["measure"]): r
        for r in tabulate(verdicts)
        if r["set"] == "all" and r["judge"] == "harmfulness"
    }
    rating = rows["tuned", "harmful", "harm_rating"]
    assert (rating["value"], rating["n"]) == (5.0, 1)
    assert [rating[fault] for fault in ("unparsed", "declined", "failed")] == [1, 1, 1]
    assert rows["tuned", "harmful", "failed"]["value"] == 0.25 and rows["tuned", "harmful", "failed"]["n"] == 4
    assert rows["base", "harmful", "harm_rating"]["value"] == 2.0 and rows["base", "harmful", "harmful"]["value"] == 0
    assert ("base", "harmful", "failed") not in rows
    first, again = faults(verdicts)
    assert "3 of 16 answers have no verdict" in first and "1 failed" in first and "HTTP 400" in first
    assert "--force" in again


def test_strongreject_judges_harmful_prompts_alone():
    with serving(lambda body: signed(body, refused=0, convincing=4, specific=2)) as server:
        config = settings({"name": "strongreject", "base_url": server.url, "model": "m"})
        verdicts = judge_all(answers(), config, {}, quiet)
    assert {v.kind for v in verdicts} == {"harmful"} and {v.score for v in verdicts} == {0.5}


def test_a_win_rate_has_a_row_for_each_model():
    def say(body):
        text = question_of(body)
        tuned_first = text.index("tuned harm") < text.index("base harm")
        return signed(body, better="first" if tuned_first else "second")

    with serving(say) as server:
        config = settings({"name": "pairwise", "base_url": server.url, "model": "m"})
        cache = {}
        verdicts = judge_all(answers(), config, cache, quiet)
        assert len(server.bodies) == len(cache) == 16  # 8 pairs in both orders, each asked once
    rates = {(r["model"], r["kind"]): r["value"] for r in tabulate(verdicts) if r["set"] == "all"}
    assert rates["tuned", "harmful"] == rates["tuned", "harmless"] == 1 and rates["base", "harmful"] == 0


def test_the_cache_is_hit_across_runs_but_not_across_judges():
    def say(body):
        if "convincing" in question_of(body):
            return signed(body, refused=1, convincing=1, specific=1)
        return signed(body, policy="none", rating=1)

    cache = {}
    with serving(say) as server:
        where = {"base_url": server.url, "model": "m"}
        config = settings({"name": "harmfulness", **where}, {"name": "strongreject", **where})
        first = judge_all(answers(), config, cache, quiet)
        assert len(server.bodies) == 16 + 8
    assert judge_all(answers(), config, cache, quiet) == first


def test_how_patiently_a_judge_is_asked_decides_nothing():
    spec = {"name": "harmfulness", "base_url": "http://a/v1", "model": "m"}
    patient = settings(spec | {"timeout": 1, "max_retries": 9, "max_concurrency": 1, "api_key_env": "KEY"})
    assert identities(settings(spec)) == identities(patient)
    assert identities(settings(spec)) != identities(settings(spec | {"revision": "r"}))
    assert identities(EvaluateConfig()) == [{"name": "refusal"}]


@pytest.mark.parametrize(
    "key, value",
    [
        ("api_key_env", "sk-secret"),
        ("api_key_env", "hf_secret"),
        ("base_url", "http://user:secret@host/v1"),
        ("base_url", "http://host/v1?key=secret"),
        ("base_url", "secret"),
        ("base_url", "file:///secret"),
    ],
)
def test_a_secret_in_the_wrong_place_is_refused_and_not_repeated(key, value):
    with pytest.raises(UserError) as told:
        settings({"name": "harmfulness", "model": "m", key: value})
    assert f"judges.0.{key}" in str(told.value) and "secret" not in str(told.value)


def test_an_unknown_key_of_a_judge_is_named_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'base_url'"):
        settings({"name": "harmfulness", "bas_url": "http://a/v1"})


def test_a_name_alone_and_a_mapping_are_the_same():
    assert settings("refusal") == settings({"name": "refusal"}) == EvaluateConfig()
    config = settings({"name": "guard", "model": "m", "base_url": "http://127.0.0.1:1/v1", "format": "shieldgemma"})
    assert EvaluateConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_local_model_judges_and_is_asked_once(tiny_folder, monkeypatch):
    from sealtune.evaluation import local

    config = settings({"name": "harmfulness", "model": str(tiny_folder), "max_tokens": 4, "max_concurrency": 3})
    few = answers(2)
    long = Response("long", "base", "set0", "harmful", "p", "word " * 9000, 3, True)
    cache = {}
    verdicts = judge_all([*few, long], config, cache, quiet)
    assert {v.label for v in verdicts[:-1]} == {"failed"}  # the prompt alone is more than the tiny model reads
    assert "more than the model reads" in verdicts[-1].error and not cache

    guard = settings({"name": "guard", "model": str(tiny_folder), "max_tokens": 4, "max_concurrency": 3})
    verdicts = judge_all([*few, long], guard, cache, quiet)
    assert {v.label for v in verdicts[:-1]} == {"unparsed"} and verdicts[-1].label == "failed"
    assert len(cache) == len(few)
    assert all(len(record["revision"]) == 16 for record in cache.values())
    monkeypatch.setattr(local, "load_model", None)
    assert judge_all(few, guard, cache, quiet) == verdicts[:-1]
