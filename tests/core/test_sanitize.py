"""Quoted text in messages: one line, no control characters, no keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealtune.core.config_io import build_config
from sealtune.core.errors import RunError, UserError
from sealtune.core.sanitize import MAX_LINE_LENGTH, hide_secrets, one_line


@given(st.text())
def test_any_text_becomes_one_printable_line_of_bounded_length(text):
    for line in (one_line(text), str(UserError(text)), str(RunError(text))):
        assert line.isprintable() and len(line) <= MAX_LINE_LENGTH
    assert one_line(one_line(text)) == one_line(text)


def test_a_long_message_keeps_its_start_and_end():
    message = str(UserError(f"rows.jsonl, line 7: {'x' * 10**6}; delete the line"))
    assert (
        message.startswith("rows.jsonl, line 7")
        and message.endswith("delete the line")
        and len(message) <= MAX_LINE_LENGTH
    )


def test_quoted_text_cannot_add_a_line():
    assert str(UserError("one", "two\nerror: forged")) == "one\ntwo\\nerror: forged"


@pytest.mark.parametrize(
    "text",
    [
        "http://me:opensesame@host/v1 gone",
        "Authorization: Bearer opensesame-1",
        "key hf_opensesameopensesame is not valid",
        "key sk-opensesame-opensesame is not valid",
    ],
)
def test_text_that_looks_like_a_key_is_masked(text):
    assert "opensesame" not in hide_secrets(text) and "***" in hide_secrets(text)
    assert "opensesame" not in str(UserError(text)) + str(RunError(text))


@pytest.mark.parametrize("name", ["HF_TOKEN", "OPENAI_API_KEY", "MY_JUDGE_SECRET", "DB_PASSWORD"])
def test_keys_in_the_environment_are_masked(monkeypatch, name):
    monkeypatch.setenv(name, "opensesame")
    assert str(UserError("the hub said: bad header 'opensesame'")) == "the hub said: bad header '***'"


def test_ordinary_words_are_not_masked(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "none")
    text = "none of https://host/a@b, the Bearer of news, disk-0123456789012345678"
    assert hide_secrets(text) == text


@pytest.mark.parametrize(
    "values",
    [
        {"model_name_or_path": "https://me:opensesame@host/model"},
        {"datasets": ["https://me:opensesame@host/rows.jsonl"]},
        {"report": {"title": "made with hf_opensesameopensesame"}},
        {"evaluate": {"judges": {"name": "guard", "api_key_env": "opensesame"}}},
        {"evaluate": {"judges": [{"name": "guard", "api_key_env": "opensesame"}]}},
        {"evaluate": {"judges": [{"name": "guard", "api_key": "opensesame"}]}},
        {"evaluate": {"judges": [{"name": "guard", "base_url": "http://me:opensesame@host/v1"}]}},
        {"evaluate": {"judges": [["opensesame"]]}},
    ],
)
def test_a_key_in_the_config_is_refused_and_not_printed(values):
    with pytest.raises(UserError) as caught:
        build_config({"model_name_or_path": "m"} | values)
    assert "opensesame" not in str(caught.value)
