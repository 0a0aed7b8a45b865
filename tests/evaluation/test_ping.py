"""One question to every judge, before anything is paid for."""

import pytest

from helpers.judge_server import Bad, serving, signed
from sealtune.core.config_io import build_config
from sealtune.core.errors import RunError, UserError
from sealtune.evaluation import ping as pings
from sealtune.evaluation.judging import ping, require_answers

DEAD = "http://127.0.0.1:9/v1"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(pings, "_warned", set())


def settings(*judges, **others):
    return build_config({"model_name_or_path": "m", "evaluate": {"judges": list(judges), **others}}).evaluate


def judge(name, url, **others):
    return {"name": name, "base_url": url, "model": "m", **others}


def rate(body):
    return signed(body, policy="none", rating=1)


def test_every_judge_and_served_model_is_reported_with_one_line():
    with serving(lambda body: rate(body) if body["model"] == "m" else "Lima") as server:
        judges = [
            "refusal",
            judge("harmfulness", server.url),
            judge("strongreject", DEAD),
            {"name": "guard", "model": "./x"},
        ]
        endpoints = {"tuned": {"base_url": server.url, "model": "t"}}
        found = ping(settings(*judges, endpoints=endpoints, base=False))
        assert [body["model"] for body in server.bodies] == ["m", "t"]
    assert [(name, ok) for name, ok, _ in found] == [
        ("refusal", True),
        ("harmfulness", True),
        ("strongreject", False),
        ("guard", False),
        ("tuned", True),
    ]
    assert "cannot be reached" in found[2].message and "./x" in found[3].message
    assert all(message and "\n" not in message for _, _, message in found)


def test_a_judge_that_compares_gets_two_answers():
    with serving(lambda body: signed(body, better="tie")) as server:
        (found,) = ping(settings(judge("pairwise", server.url)))
    assert found == ("pairwise", True, "pairwise: ready")


def test_a_reply_that_is_no_verdict_is_warned_about_once(caplog):
    with serving(lambda body: "Lima, yes.") as server:
        config = settings(judge("harmfulness", server.url))
        require_answers(config)
        require_answers(config)
        assert ping(config)[0].ok
    assert caplog.text.count("harmfulness answers, but gives no verdict on a harmless answer") == 1


def test_a_dead_server_is_reported_after_one_retry():
    def reply(body):
        raise Bad(503, b'{"error": {"message": "loading"}}')

    with serving(reply) as server, pytest.raises(RunError, match="gives no answer: HTTP 503: loading"):
        require_answers(settings(judge("harmfulness", server.url, max_retries=9)))
    assert len(server.bodies) == 2


def test_a_short_disturbance_is_survived_even_without_retries():
    def reply(body):
        if len(server.bodies) == 1:
            raise Bad(503)
        return rate(body)

    with serving(reply) as server:
        require_answers(settings(judge("harmfulness", server.url, max_retries=0)))


def test_all_that_is_wrong_is_reported_at_once(caplog):
    with pytest.raises(RunError, match="harmfulness at"):
        require_answers(settings(judge("harmfulness", DEAD), judge("strongreject", DEAD)))
    assert "strongreject at" in caplog.text


def test_a_key_that_is_not_set_is_the_users_fault():
    with pytest.raises(UserError, match="NOT_SET_ANYWHERE is not set"):
        require_answers(settings(judge("harmfulness", DEAD, api_key_env="NOT_SET_ANYWHERE")))


def test_a_local_judge_is_looked_for_but_not_loaded(tiny_folder, monkeypatch):
    monkeypatch.setattr("sealtune.evaluation.local.load_model", lambda *args: pytest.fail("the model was loaded"))
    require_answers(settings({"name": "harmfulness", "model": str(tiny_folder)}))
    for missing in ("./no-such-folder", "nobody/no-such-model"):
        with pytest.raises(UserError, match="no-such"):
            require_answers(settings({"name": "harmfulness", "model": missing}))
