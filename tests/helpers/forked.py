"""Starts processes like ``torchrun``, but by forking one that has imported everything: no second is lost on imports."""

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

import pytest

CONTEXT = multiprocessing.get_context("forkserver")


@cache
def start_server() -> None:
    """Start the process that is forked."""
    CONTEXT.set_forkserver_preload(["helpers.preloaded"])
    with pytest.MonkeyPatch.context() as patch:  # the server does not get the path of this process
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()


class Job:
    """Running processes, with the part of ``subprocess.Popen`` that tests use.

    Args:
        words: the arguments of ``python``: ``-m sealtune ...``, or a script and its arguments.
        variables: added to the environment.
        processes: their number; one is not part of a process group.
    """

    def __init__(self, words: Sequence[str], variables: Mapping[str, str], processes: int = 2) -> None:
        folder = Path(tempfile.mkdtemp())
        self.stdout, self.stderr = folder / "stdout", folder / "stderr"
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        group = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1"}
        group |= {"MASTER_PORT": port}
        start_server()
        self.processes = []
        for rank in range(processes):
            own = group | {"RANK": rank, "LOCAL_RANK": rank} if processes > 1 else {}
            settings = dict(variables) | {name: str(value) for name, value in own.items()}
            self.processes.append(CONTEXT.Process(target=_work, args=(list(words), settings, folder)))
        for process in self.processes:
            process.start()

    def poll(self) -> int | None:
        """The exit code if all have ended: the first that is not 0."""
        codes = [process.exitcode for process in self.processes]
        return None if None in codes else next((code for code in codes if code), 0)

    @property
    def returncode(self) -> int | None:
        """The same."""
        return self.poll()

    def send_signal(self, number: int) -> None:
        """Send it to all processes."""
        for process in self.processes:
            if process.pid and process.exitcode is None:
                os.kill(process.pid, number)

    def communicate(self, timeout: float) -> tuple[str, None]:
        """Wait for the end; the output of all processes."""
        end = time.monotonic() + timeout
        for process in self.processes:
            process.join(end - time.monotonic())
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)
            raise TimeoutError(self.output())
        return self.output(), None

    def output(self) -> str:
        """What all processes have written."""
        return "".join(path.read_text(encoding="utf-8") for path in (self.stdout, self.stderr) if path.exists())


def _work(words: list[str], variables: dict[str, str], folder: Path) -> None:
    os.environ.update(variables)
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND), stream)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=False)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
