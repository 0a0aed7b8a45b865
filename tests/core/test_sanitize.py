"""Text of rows, files and servers on its way to a terminal or an error message: one line, no controls, no keys."""

import io

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from helpers.hostile_text import HOSTILE, is_harmless
from sealtune.cli.errors import one_line_errors
from sealtune.core.config_io import build_config
from sealtune.core.errors import RunError, UserError
from sealtune.core.sanitize import MAX_LINE_LENGTH, hide_secrets, one_line
from sealtune.evaluation import comparison
from sealtune.pipeline import results


@given(st.text())
def test_whatever_is_told_is_one_printable_line_of_bounded_length(text):
    for told in (one_line(text), str(UserError(text)), str(RunError(text))):
        assert told.isprintable() and len(told) <= MAX_LINE_LENGTH
    assert one_line(one_line(text)) == one_line(text)


def test_a_message_of_a_megabyte_keeps_its_ends():
    told = str(UserError(f"rows.jsonl, line 7: {'x' * 10**6}; delete the line"))
    assert told.startswith("rows.jsonl, line 7") and told.endswith("delete the line") and len(told) <= MAX_LINE_LENGTH


def test_what_is_quoted_cannot_write_a_line_of_its_own():
    assert str(UserError("one", "two\nerror: forged")) == "one\ntwo\\nerror: forged"


def test_the_table_of_results_is_harmless():
    row = {
        "measure": f"acc{HOSTILE}[blink]",
        "kind": "task",
        "set": f"task{HOSTILE}",
        "judge": "lm-eval",
        "model": "base",
    }
    table = results.short_table(
        {
            "rows": {"ranked": 1},
            "ranking": None,
            "uncertainty": {"estimated_unsafe": None, "borderline_rows": None},
            "evaluation": [row | {"value": 1.0, "low": None, "high": None}],
            "cost": {},
        }
    )
    screen = Console(file=io.StringIO(), width=400)
    screen.print(table)
    assert is_harmless(screen.file.getvalue()) and "[blink]" in screen.file.getvalue()


def test_the_table_of_a_comparison_is_text_and_nothing_else():
    evil = f"<img src=x onerror=steal()> [click](http://evil.test) | a | {HOSTILE} `x`"
    content = {
        "model": evil,
        "seeds": [0],
        "reference": "random",
        "methods": ["random"],
        "table": [],
        "selection": [],
        "failed": [{"method": "loss", "seed": 0, "error": evil}],
    }
    text = comparison.markdown(content)
    assert is_harmless(text) and len(text.splitlines()) == len(
        comparison.markdown(content | {"model": "m"}).splitlines()
    )
    assert "\\<img" in text and "\\[click\\](http\\://" in text and "\\| a \\|" in text
    from rich.markdown import Markdown

    screen = Console(file=io.StringIO(), force_terminal=True, width=400)
    screen.print(Markdown(text, hyperlinks=False))
    assert "\x1b]8;" not in screen.file.getvalue() and "<img" in screen.file.getvalue()


def told_by_command(capsys, error):
    with pytest.raises(typer.Exit) as stopped, one_line_errors():
        raise error
    return stopped.value.exit_code, capsys.readouterr().err


def test_errors_cannot_move_the_cursor(capsys):
    code, text = told_by_command(capsys, UserError(f"x: {HOSTILE}"))
    assert code == 2 and is_harmless(text) and text.count("\n") == 1


def test_a_fault_of_ours_is_told_without_controls_and_keys(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "opensesame")
    code, text = told_by_command(capsys, KeyError(f"{HOSTILE} Illegal header value b'Bearer opensesame'"))
    assert code == 1 and is_harmless(text) and "opensesame" not in text
    assert "KeyError" in text and "fault of sealtune" in text


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "http://me:opensesame@host/v1 gone",
        "Authorization: Bearer opensesame-1",
        "key hf_opensesameopensesame is not valid",
        "key sk-opensesame-opensesame is not valid",
    ],
)
def test_what_looks_like_a_key_is_hidden(text):
    assert "opensesame" not in hide_secrets(text) and "***" in hide_secrets(text)
    assert "opensesame" not in str(UserError(text)) + str(RunError(text))


@pytest.mark.parametrize("name", ["HF_TOKEN", "OPENAI_API_KEY", "MY_JUDGE_SECRET", "DB_PASSWORD"])
def test_keys_of_the_environment_are_hidden(monkeypatch, name):
    monkeypatch.setenv(name, "opensesame")
    assert str(UserError("the hub said: bad header 'opensesame'")) == "the hub said: bad header '***'"


def test_ordinary_words_stay(monkeypatch):
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
def test_a_key_in_the_config_is_refused_and_not_shown(values):
    with pytest.raises(UserError) as told:
        build_config({"model_name_or_path": "m"} | values)
    assert "opensesame" not in str(told.value)
