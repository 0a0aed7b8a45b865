"""Text of rows, files and servers on its way to a terminal or an error message: one line, no controls, no keys."""

import io

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sealtune.cli.errors import one_line_errors
from sealtune.core import console
from sealtune.core.config_io import build_config
from sealtune.core.errors import RunError, UserError
from sealtune.core.sanitize import LONGEST_LINE, hide_secrets, one_line
from sealtune.evaluation import comparison
from sealtune.pipeline import results

MOVES = [
    "\x1b[2J",
    "\x1b]8;;http://evil.test\x07",
    "\x9b2J",
    "\r",
    "\n",
    "\x08",
    "\u202e",
    "\u2066",
    "\u2028",
    "\x85",
    "\U000e0041",
]
EVIL = "".join(MOVES)


def printed(monkeypatch, action):
    """What a terminal receives."""
    target = Console(file=io.StringIO(), force_terminal=True, width=300, soft_wrap=True, highlight=False)
    monkeypatch.setattr(console, "ERR", target)
    action()
    return target.file.getvalue()


def harmless(text):
    """No control character but the line end, and no sequence that rich did not write itself."""
    return all(c.isprintable() or c == "\n" for c in text)


@given(st.text())
def test_whatever_is_told_is_one_printable_line_of_bounded_length(text):
    for told in (one_line(text), str(UserError(text)), str(RunError(text))):
        assert told.isprintable() and len(told) <= LONGEST_LINE
    assert one_line(one_line(text)) == one_line(text)


def test_a_message_of_a_megabyte_keeps_its_ends():
    told = str(UserError(f"rows.jsonl, line 7: {'x' * 10**6}; delete the line"))
    assert told.startswith("rows.jsonl, line 7") and told.endswith("delete the line") and len(told) <= LONGEST_LINE


def test_what_is_quoted_cannot_write_a_line_of_its_own():
    assert str(UserError("one", "two\nerror: forged")) == "one\ntwo\\nerror: forged"


def test_lines_to_the_user_cannot_move_the_cursor(monkeypatch):
    text = printed(monkeypatch, lambda: console.say(f"rows: {EVIL} [red]not markup[/red]"))
    assert harmless(text) and text.count("\n") == 1 and "[red]" in text


def test_a_bar_on_a_terminal_cannot_be_moved_by_its_title_or_note(monkeypatch):
    def work():
        with console.track(f"judge: {EVIL} [blink]") as advance:
            advance(1, 2, 1, 1, f"{EVIL} [blink]")

    text = printed(monkeypatch, work)
    assert "[blink]" in text
    assert not any(move in text for move in MOVES if move not in ("\r", "\n"))


def test_lines_without_a_terminal_are_harmless_too(monkeypatch):
    target = Console(file=io.StringIO(), width=300, soft_wrap=True)
    monkeypatch.setattr(console, "ERR", target)
    with console.track(EVIL) as advance:
        advance(1, 1, 1, 1, EVIL)
    assert harmless(target.file.getvalue())


def test_the_table_of_results_is_harmless():
    row = {"measure": f"acc{EVIL}[blink]", "kind": "task", "set": f"task{EVIL}", "judge": "lm-eval", "model": "base"}
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
    assert harmless(screen.file.getvalue()) and "[blink]" in screen.file.getvalue()


def test_the_table_of_a_comparison_is_text_and_nothing_else():
    evil = f"<img src=x onerror=steal()> [click](http://evil.test) | a | {EVIL} `x`"
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
    assert harmless(text) and len(text.splitlines()) == len(comparison.markdown(content | {"model": "m"}).splitlines())
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
    code, text = told_by_command(capsys, UserError(f"x: {EVIL}"))
    assert code == 2 and harmless(text) and text.count("\n") == 1


def test_a_fault_of_ours_is_told_without_controls_and_keys(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "opensesame")
    code, text = told_by_command(capsys, KeyError(f"{EVIL} Illegal header value b'Bearer opensesame'"))
    assert code == 1 and harmless(text) and "opensesame" not in text
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
