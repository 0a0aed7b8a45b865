"""What the command line shows while it works: log lines, and bars on a terminal."""

import io
import logging
import subprocess
import sys

import pytest

from helpers.hostile_text import CONTROLS, HOSTILE, is_harmless
from sealtune.cli import progress
from sealtune.core import console

WORK = """
import sys, warnings
if sys.argv[1:] == ["cli"]:
    from sealtune.cli.progress import show_log
    show_log()
import logging, sealtune
from sealtune.core.console import track
logging.getLogger("sealtune.data.load").warning("3 rows dropped")
with track("rank") as advance:
    advance(2, 2, rows=8, tokens=100)
"""


def stderr_of(*args):
    done = subprocess.run([sys.executable, "-c", WORK, *args], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_the_library_is_silent_in_python():
    assert stderr_of() == ""


def test_the_command_line_prints_the_log():
    warning, last_step = stderr_of("cli").splitlines()
    assert warning == "3 rows dropped" and last_step.startswith("rank: 2/2  8 rows  ")


def test_a_log_record_cannot_move_the_cursor(capsys):
    logging.getLogger("sealtune.x").info("%s", f"rows: {HOSTILE} [red]not markup[/red]")
    text = capsys.readouterr().err
    assert is_harmless(text) and text.count("\n") == 1 and "[red]" in text


def test_logged_progress_cannot_move_the_cursor(capsys):
    with console.track(HOSTILE) as advance:
        advance(1, 1, 1, 1, HOSTILE)
    assert is_harmless(capsys.readouterr().err)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def show_on_terminal(monkeypatch):
    """A function that makes stderr a terminal, on which progress is shown as bars."""

    def show():
        target = Terminal()
        monkeypatch.setattr(sys, "stderr", target)
        monkeypatch.setattr(console, "_display", console.log_progress)
        monkeypatch.setenv("COLUMNS", "300")
        monkeypatch.setenv("TERM", "xterm")
        progress.show_bars()
        return target

    return show


def test_a_bar_cannot_be_moved_by_its_title_or_note(show_on_terminal):
    terminal = show_on_terminal()
    with console.track(f"judge: {HOSTILE} [blink]") as advance:
        advance(1, 2, 1, 1, f"{HOSTILE} [blink]")
    text = terminal.getvalue()
    assert "[blink]" in text and "━" in text
    assert not any(control in text for control in CONTROLS if control not in ("\r", "\n"))


def test_a_log_line_appears_above_the_bar(show_on_terminal):
    terminal = show_on_terminal()
    with console.track("rank") as advance:
        advance(1, 2)
        logging.getLogger("sealtune.x").info("saved [bold]")
    assert "saved [bold]\n" in terminal.getvalue()


def test_a_job_within_a_job_adds_a_bar(show_on_terminal):
    terminal = show_on_terminal()
    with console.track("rank") as outer:
        outer(1, 2)
        with console.track("scorer") as inner:
            inner(1, 4)
        outer(2, 2)
    with console.track("tune") as after:
        after(1, 1)
    text = terminal.getvalue()
    assert all(title in text for title in ("rank", "scorer", "tune")) and "1/4" in text


def test_quiet_work_shows_errors_alone_and_the_result_is_alone_on_stdout(capsys):
    logger = logging.getLogger("sealtune.x")
    with progress.working(quiet=True, as_json=True):
        logger.info("hidden")
        logger.error("shown")
        print("a library says")
        with console.track("rank") as advance:
            advance(2, 2)
    logger.info("visible again")
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "shown\na library says\nvisible again\n"
    with pytest.raises(KeyError), progress.working(quiet=True, as_json=False):
        raise KeyError
    assert logger.isEnabledFor(logging.INFO)


def test_progress_is_logged_about_every_ten_seconds(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with console.track("rank") as advance:
        for now in range(1, 31):
            advance(now, 1000, rows=2)
    assert [message.split("  ")[:2] for message in capsys.readouterr().err.splitlines()] == [
        ["rank: 10/1000", "20 rows"],
        ["rank: 20/1000", "40 rows"],
        ["rank: 30/1000", "60 rows"],
    ]
