"""How a command ends where it cannot go on: one line, and an exit code."""

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

PRECEDENCE = 5.0
"""Seconds that other processes wait before they tell of an error: most often the first tells it, which ends them."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Expected failures become one clear line; exit code 2 for a user's fault, 143 after SIGTERM, 1 for the rest."""
    from sealtune.core.errors import RunError, UserError

    try:
        yield
    except typer.Exit:
        raise
    except UserError as error:
        _fail(str(error), 2)
    except RunError as error:
        _fail(str(error), error.code)
    except KeyboardInterrupt:
        _fail("stopped; finished stages are kept and will be skipped by the next run", 1)
    except MemoryError:
        _fail("out of memory; lower per_device_train_batch_size or max_length", 1)
    except OSError as error:
        if error.errno not in _DISK:
            _fail_unexpectedly(error)
        _fail(f"{error.filename or 'output_dir'}: {_DISK[error.errno]}; what was finished before is whole", 1)
    except RuntimeError as error:  # torch has no class of its own for memory on the CPU, or for a lost partner
        if distributed.is_lost_peer(error):
            _fail("another process of this run has ended; resume with resume_from_checkpoint=true", 1)
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            _fail_unexpectedly(error)
        _fail("out of memory; lower per_device_train_batch_size or max_length, or set gradient_checkpointing", 1)
    except Exception as error:
        _fail_unexpectedly(error)


@contextmanager
def no_teardown() -> Iterator[None]:
    """Processes of a group end as soon as they are done, without taking the interpreter apart.

    The group's threads live on in models and optimizers, and one that still wants the interpreter while it is taken
    apart aborts a process whose work is done.
    """
    try:
        yield
    except SystemExit as end:
        if not distributed.is_launched():
            raise
        atexit._run_exitfuncs()  # trackers send what they have left
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))


_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file grew larger than this disk or this account may hold",
    errno.EACCES: "no permission",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk does not answer",
}


def _fail(message: str, code: int) -> NoReturn:
    from sealtune.core.sanitize import one_line

    who = ""
    if not distributed.is_main_process():
        time.sleep(PRECEDENCE)
        who = f"process {distributed.process_index()}: "
    for line in message.split("\n"):
        sys.stderr.write(f"error: {who}{one_line(line)}\n")
    sys.stderr.flush()
    raise typer.Exit(code)


def _fail_unexpectedly(error: Exception) -> NoReturn:
    """A fault of ours: where it happened, without the control characters and keys that it may quote."""
    from sealtune.core.sanitize import hide_secrets, escape_unprintable

    trace = "".join(traceback.format_exception(error))
    sys.stderr.write(escape_unprintable(hide_secrets(trace), keep="\n"))
    _fail(f"{type(error).__name__}: this is a fault of sealtune; please report it with the lines above", 1)
