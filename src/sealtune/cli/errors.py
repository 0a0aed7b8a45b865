"""How a command ends after an error: one line and an exit code."""

from __future__ import annotations

import atexit
import errno
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from sealtune.core import distributed
from sealtune.core.errors import RunError, UserError
from sealtune.core.sanitize import escape_unprintable, hide_secrets, one_line

REPORT_DELAY = 5.0
"""Seconds that other processes wait before they report an error: usually the main one reports it and ends them."""
DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file exceeds the size limit of this disk or account",
    errno.EACCES: "no permission",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk does not answer",
}


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Report errors in one line. Exit code 2 for a UserError, 143 after SIGTERM, otherwise 1."""
    try:
        yield
    except typer.Exit:
        raise
    except UserError as error:
        _fail(str(error), 2)
    except RunError as error:
        _fail(str(error), error.code)
    except KeyboardInterrupt:
        _fail("stopped; finished stages are kept, and the next run skips them", 1)
    except MemoryError:
        _fail("out of memory; lower per_device_train_batch_size or max_length", 1)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            _fail_unexpectedly(error)
        _fail(f"{error.filename or 'output_dir'}: {DISK_ERRORS[error.errno]}; finished work is intact", 1)
    except RuntimeError as error:  # torch has no exception class for CPU memory or a lost peer
        if distributed.is_lost_peer(error):
            _fail("another process of this run has ended; resume with resume_from_checkpoint=true", 1)
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            _fail_unexpectedly(error)
        _fail("out of memory; lower per_device_train_batch_size or max_length, or set gradient_checkpointing", 1)
    except Exception as error:
        _fail_unexpectedly(error)


@contextmanager
def exit_without_teardown() -> Iterator[None]:
    """End a process of a process group without finalising the interpreter.

    Threads of the process group stay alive in models and optimizers, and abort a finished process if they need the
    interpreter while it is finalised.
    """
    try:
        yield
    except SystemExit as error:
        if not distributed.is_launched():
            raise
        atexit._run_exitfuncs()  # experiment trackers send their last records
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.code if isinstance(error.code, int) else int(error.code is not None))


def _fail(message: str, code: int) -> NoReturn:
    prefix = "error: "
    if not distributed.is_main_process():
        time.sleep(REPORT_DELAY)
        prefix += f"process {distributed.process_index()}: "
    for line in message.split("\n"):
        sys.stderr.write(f"{prefix}{one_line(line)}\n")
    sys.stderr.flush()
    raise typer.Exit(code)


def _fail_unexpectedly(error: Exception) -> NoReturn:
    """Report a bug with its traceback, without the control characters and keys that it may quote."""
    trace = "".join(traceback.format_exception(error))
    sys.stderr.write(escape_unprintable(hide_secrets(trace), keep="\n"))
    _fail(f"{type(error).__name__}: this is a bug in sealtune; please report it with the lines above", 1)
