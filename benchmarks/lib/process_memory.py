"""The memory of a process, sampled while it works."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def current_memory() -> dict[str, int]:
    """Bytes in physical memory (``memory``), and those without the pages of mapped files (``allocated``)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    fields = {"memory": "VmRSS", "allocated": "RssAnon"}
    return {name: int(lines[field].split()[0]) * 1024 for name, field in fields.items()}


@contextmanager
def peak_memory(interval: float = 0.003) -> Iterator[dict[str, int]]:
    """The largest values of ``current_memory`` within the block, sampled every ``interval`` seconds."""
    peak, done = current_memory(), threading.Event()

    def sample() -> None:
        while not done.wait(interval):
            for name, size in current_memory().items():
                peak[name] = max(peak[name], size)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peak
    finally:
        done.set()
        sampler.join()
