"""What several benchmarks need: a model of two layers, and the most memory that a process had."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


def two_layers(vocab_size: int) -> LlamaForCausalLM:
    """A model so small that what it costs hides nothing; random weights, by torch's seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": vocab_size}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()


@contextmanager
def most_memory(every: float = 0.003) -> Iterator[dict[str, int]]:
    """The most that the process had within the block, as ``resident`` tells it; looked at every so many seconds."""
    found, done = resident(), threading.Event()

    def look() -> None:
        while not done.wait(every):
            for name, size in resident().items():
                found[name] = max(found[name], size)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


def resident() -> dict[str, int]:
    """Bytes of the process in physical memory, and those among them that it allocated: no pages of mapped files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    names = {"memory": "VmRSS", "allocated": "RssAnon"}
    return {name: int(lines[field].split()[0]) * 1024 for name, field in names.items()}
