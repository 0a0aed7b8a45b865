"""Addresses as users write them, and requests that servers refuse."""

import json

import pytest

from sealtune.core.config import JudgeConfig
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.evaluation.chat_request import first_request
from sealtune.evaluation.judge_protocol import Question

PATH = "/v1/chat/completions"


@pytest.mark.parametrize(
    "base_url, urls",
    [
        ("http://h/v1", [PATH]),
        ("http://h/v1/", [PATH]),
        ("http://h", ["/chat/completions", PATH]),
        ("http://h/", ["/chat/completions", PATH]),
        ("http://h/api", ["/api/chat/completions", "/api" + PATH]),
        ("http://h/v1/chat/completions", [PATH]),
        ("http://h/v1/chat/completions/", [PATH]),
        ("http://h/v1?api-version=2", [PATH + "?api-version=2"]),
    ],
)
def test_an_address_is_completed(base_url, urls):
    assert first_request(base_url).urls == tuple("http://h" + url for url in urls)


def config(url):
    return build_config({"model_name_or_path": "m", "evaluate": {"judges": [{"name": "guard", "base_url": url}]}})


@pytest.mark.parametrize(
    "url",
    [
        "https://a.openai.azure.com/openai/deployments/d?api-version=2024-12-01-preview",
        "http://[::1]:8000/v1",
        "http://h/v1?version=2&region=eu",
    ],
)
def test_an_address_may_have_a_query(url):
    assert config(url).evaluate.judges[0].base_url == url


@pytest.mark.parametrize(
    "name", ["api_key", "api-key", "apikey", "key", "token", "access_token", "sig", "x_sig", "code"]
)
def test_a_key_in_an_address_is_refused_and_not_shown(name):
    with pytest.raises(UserError, match="put the key into an environment variable") as caught:
        config(f"https://h/v1?api-version=2&{name}=opensesame")
    assert "opensesame" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_long_value_without_words_is_taken_for_a_key():
    with pytest.raises(UserError, match="put the key into an environment variable"):
        config("https://h/v1?x=" + "0a1B" * 9)


@pytest.mark.parametrize(
    "url", ["h:8000/v1", "h/v1", "ftp://h", "http://", "http://h :1/v1", "http://h/v1#x", "http://h:0"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(UserError, match=r"base_url.*must be an http\(s\) URL such as"):
        config(url)


@pytest.mark.parametrize("url", ["http://h:99999/v1", "http://h:port/v1", "http://[::1"])
def test_a_broken_address_is_one_line(url):
    with pytest.raises(UserError, match="base_url") as caught:
        config(url)
    assert "\n" not in str(caught.value)


def refusal(text, status=400):
    return first_request("http://h/v1").after_refusal(status, text, "m")


def test_another_name_of_the_limit_is_tried_and_then_none():
    first = first_request("http://h/v1")
    second = first.after_refusal(400, "max_tokens is not supported", "m")
    third = second.after_refusal(422, "max_completion_tokens is not supported", "m")
    names = [sorted(r.body(Question("j", "", ()), JudgeConfig(name="j"))) for r in (first, second, third)]
    assert names == [
        ["max_tokens", "messages", "model", "temperature"],
        ["max_completion_tokens", "messages", "model", "temperature"],
        ["messages", "model", "temperature"],
    ]
    assert third.after_refusal(400, "max_completion_tokens is not supported", "m") is None
    assert [r.changes() for r in (first, second, third)] == [
        {},
        {"limit_parameter": "max_completion_tokens"},
        {"limit_parameter": None},
    ]


def test_two_parameters_that_are_refused_at_once_are_changed_at_once():
    detail = [
        {"loc": ["body", name], "msg": "Extra inputs are not permitted"} for name in ("temperature", "max_tokens")
    ]
    changed = refusal(json.dumps({"detail": detail}), 422)
    assert changed.changes() == {"temperature": None, "limit_parameter": "max_completion_tokens"}


@pytest.mark.parametrize(
    "text, status",
    [
        ("max_tokens is too large: this model supports at most 256", 400),
        ("context length exceeded", 400),
        ("temperature of the machine room", 500),
        ("temperature", 403),
    ],
)
def test_other_refusals_change_nothing(text, status):
    assert refusal(text, status) is None


def test_what_is_part_of_the_question_is_never_left_out():
    question = Question("guard", "", (), {"guideline": "g"})
    assert refusal("chat_template_kwargs is not supported") is None
    assert first_request("http://h").body(question, JudgeConfig(name="j"))["chat_template_kwargs"] == {"guideline": "g"}


def test_a_missing_model_is_no_missing_address():
    first = first_request("http://h")
    assert first.after_refusal(404, '{"detail": "Not Found"}', "m").urls == ("http://h/v1/chat/completions",)
    assert first.after_refusal(405, "Method Not Allowed", "m") is not None
    assert first.after_refusal(404, '{"error": {"message": "The model `x` does not exist"}}', "m") is None
