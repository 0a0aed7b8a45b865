"""Provenance and cost of a run, for the manifest and `sealtune env`."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from sealtune.models.load import cpu_has_bf16

PACKAGES = ("sealtune", "torch", "transformers", "accelerate", "peft", "trl", "datasets", "safetensors", "tokenizers")
OPTIONAL = ("bitsandbytes", "gguf", "lm_eval", "deepspeed")


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that affect results."""
    return {"python": platform.python_version(), **_packages()}


@cache
def _packages() -> dict[str, str]:
    """Read once: every stage asks for them, and each package is looked for in all of ``sys.path``."""
    found = {}
    for name in (*PACKAGES, *OPTIONAL):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def git_revision() -> str | None:
    """Commit of this code, with ``-dirty`` if files were changed; None outside a git checkout."""
    folder = Path(__file__).parents[3]
    if not (folder / ".git").exists():
        return None
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return None


def machine() -> dict[str, Any]:
    """The hardware, as reported by torch."""
    import torch

    facts: dict[str, Any] = {"platform": platform.platform(), "cpu_threads": torch.get_num_threads()}
    facts["cpu_bf16"] = cpu_has_bf16()
    if torch.cuda.is_available():
        facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        facts["gpu_memory_bytes"] = torch.cuda.get_device_properties(0).total_memory
    return facts


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """Yield a mapping that receives ``seconds`` and ``peak_memory_bytes`` when the block ends."""
    cost: dict[str, Any] = {}
    started = time.perf_counter()
    reset_peak_memory()
    yield cost
    cost["seconds"] = round(time.perf_counter() - started, 3)
    cost["peak_memory_bytes"] = peak_memory()


def reset_peak_memory() -> None:
    """Reset the peak memory of the GPU or, without one, of this process (Linux only)."""
    if _on_gpu():
        sys.modules["torch"].cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> int | None:
    """Peak memory in bytes since the last reset; None if the system does not report it."""
    if _on_gpu():
        return int(sys.modules["torch"].cuda.max_memory_allocated())
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    return None


def _on_gpu() -> bool:
    return "torch" in sys.modules and bool(sys.modules["torch"].cuda.is_available())
