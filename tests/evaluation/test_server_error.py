"""Errors as vendors write them: what they are about, and their message."""

import json

import pytest

from sealtune.evaluation.server_error import error_status, read_error

SENT = ("temperature", "max_tokens")


def openai(message, **fields):
    return json.dumps({"error": {"message": message, "type": "invalid_request_error", **fields}})


@pytest.mark.parametrize(
    "text, about",
    [
        (
            openai("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.", param="max_tokens"),
            {"max_tokens"},
        ),
        (openai("Only the default (1) is supported.", param="temperature", code="unsupported_value"), {"temperature"}),
        (openai("Reasoning models take no temperature.", param="max_tokens"), {"max_tokens"}),
        (openai("'temperature' does not support 0 with this model", param=None), {"temperature"}),
        (
            json.dumps({"detail": [{"loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}]}),
            {"max_tokens"},
        ),
        (json.dumps({"detail": "Unknown field: temperature"}), {"temperature"}),
        (json.dumps({"message": {"detail": [{"loc": ["body", "temperature"], "msg": "no"}]}}), {"temperature"}),
        (json.dumps([{"error": {"message": "Unknown name maxTokens", "status": "INVALID_ARGUMENT"}}]), {"max_tokens"}),
        (json.dumps({"error": {"message": "failed", "metadata": {"raw": openai("no temperature")}}}), {"temperature"}),
        (json.dumps({"error": "temperature and max tokens are not taken"}), {"temperature", "max_tokens"}),
        ("max_tokens: not permitted", {"max_tokens"}),
        (openai("Invalid messages", param="messages"), set()),
        ("use max_completion_tokens", set()),
        ("", set()),
        ("[" * 100000, set()),
    ],
)
def test_the_parameters_that_an_error_is_about_are_found(text, about):
    assert read_error(text).named(SENT) == about


def test_a_request_that_is_repeated_in_the_error_says_nothing():
    repeated = {"loc": ["body", "prompt"], "msg": "Field required", "input": {"temperature": 0, "max_tokens": 512}}
    assert read_error(json.dumps({"detail": [repeated]})).named(SENT) == set()


@pytest.mark.parametrize(
    "message, about_value",
    [
        ("max_tokens is too large: 512. This model supports at most 256 completion tokens", True),
        ("'max_tokens' or 'max_completion_tokens' is too large: the maximum context length is 1000 tokens", True),
        ("max_tokens: Input should be less than or equal to 256", True),
        ("'max_tokens' is not taken by this model; 'max_completion_tokens' is.", False),
        ("Extra inputs are not permitted", False),
    ],
)
def test_a_number_that_is_too_large_is_no_unknown_parameter(message, about_value):
    assert read_error(openai(message)).is_about_value() is about_value
    assert not read_error(openai(message, code="unsupported_parameter")).is_about_value()


@pytest.mark.parametrize(
    "text, message",
    [
        (openai("no such model"), "no such model"),
        (json.dumps({"detail": "Not Found"}), "Not Found"),
        (json.dumps({"error": "overloaded"}), "overloaded"),
        ("<html>502</html>", "<html>502</html>"),
        ("{}", ""),
    ],
)
def test_the_message_is_read_without_its_wrapping(text, message):
    assert read_error(text).message == message


@pytest.mark.parametrize(
    "answer, status",
    [
        ({"error": {"code": 429, "message": "slow down"}}, 429),
        ({"error": {"code": "server_error"}}, 502),
        ({"error": "overloaded", "choices": []}, 502),
        ({"choices": [{"error": {"code": 503}, "finish_reason": "error"}]}, 503),
        ({"error": None, "choices": [{"message": {"content": '"error"'}}]}, None),
        ({"choices": [{"message": {"content": "x", "error": "y"}}]}, None),
        (["error"], None),
    ],
)
def test_an_error_sent_with_http_200_has_a_status(answer, status):
    assert error_status(json.dumps(answer)) == status
