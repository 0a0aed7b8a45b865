import errno
import os
import signal
import subprocess
import sys

import pytest
import typer

from helpers.hostile_text import HOSTILE, is_harmless
from sealtune.cli.errors import one_line_errors
from sealtune.core.errors import RunError, StoppedError, UserError


def run(capsys, error):
    """The exit code and the output of a command that raises this error."""
    with pytest.raises(typer.Exit) as stopped, one_line_errors():
        raise error
    return stopped.value.exit_code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("x: bad"), 2, "x: bad"),
        (RunError("rank: NaN"), 1, "rank: NaN"),
        (StoppedError("stopped", signal.SIGTERM), 143, "stopped"),
        (KeyboardInterrupt(), 1, "finished stages are kept"),
        (MemoryError(), 1, "lower per_device_train_batch_size"),
        (RuntimeError("CUDA out of memory"), 1, "lower per_device_train_batch_size"),
        (OSError(errno.ENOSPC, "", "out/a"), 1, "out/a: the disk is full"),
    ],
)
def test_an_expected_error_is_one_line_and_an_exit_code(capsys, error, code, message):
    found, text = run(capsys, error)
    assert found == code and message in text and text.startswith("error: ") and text.count("\n") == 1


def test_errors_cannot_move_the_cursor(capsys):
    code, text = run(capsys, UserError(f"x: {HOSTILE}"))
    assert code == 2 and is_harmless(text) and text.count("\n") == 1


def test_a_bug_is_reported_without_control_characters_and_keys(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "opensesame")
    code, text = run(capsys, KeyError(f"{HOSTILE} Illegal header value b'Bearer opensesame'"))
    assert code == 1 and is_harmless(text) and "opensesame" not in text
    assert "KeyError" in text and "bug in sealtune" in text


@pytest.mark.parametrize(("count", "ended"), [("2", 3), ("1", -signal.SIGABRT)])
def test_a_process_of_a_group_exits_without_finalising_the_interpreter(count, ended):
    """The bomb stands for a thread of the process group: it aborts the process if the interpreter is finalised."""
    code = """
import atexit, os, sys
from sealtune.cli.errors import exit_without_teardown
class Bomb:
    def __del__(self, abort=os.abort): abort()
bomb = Bomb()
atexit.register(print, "sent the last records")
with exit_without_teardown():
    print("done")
    sys.exit(3)
"""
    where = os.environ | {"WORLD_SIZE": count}
    done = subprocess.run([sys.executable, "-c", code], env=where, capture_output=True, text=True, timeout=60)
    assert done.returncode == ended
    assert count == "1" or done.stdout == "done\nsent the last records\n"
