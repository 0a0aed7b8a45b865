"""``--accelerate_config``: the same command again, as the processes that accelerate's launcher starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sealtune.core.errors import UserError, did_you_mean

FOLDER = Path(__file__).parent / "accelerate_configs"
MARK = "SEALTUNE_LAUNCHED"
"""Set in the environment of what was launched, or it would launch itself again."""


def names() -> list[str]:
    """The configurations that come with sealtune."""
    return sorted(["multi_cpu", *(path.stem for path in FOLDER.glob("*.yaml"))])


def launch(configuration: str, processes: int | None, words: Sequence[str]) -> None:
    """Become the launcher of ``sealtune WORDS``; nothing happens in a process that it has started.

    Raises:
        UserError: ``configuration`` is neither one of ours nor a file, there is no GPU for it, or another launcher is
            at work.
    """
    if MARK in os.environ:
        return
    if "WORLD_SIZE" in os.environ:
        raise UserError("--accelerate_config: a launcher is at work already; leave one of the two out")
    os.environ[MARK] = "1"
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", *_launcher(configuration, processes), "-m", "sealtune", *words])


def _launcher(configuration: str, processes: int | None) -> list[str]:
    """accelerate's, but for processes on CPUs: it starts those by MPI alone, torch needs nothing installed."""
    if configuration == "multi_cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
        return ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes or 2)]
    file = locate(configuration)
    if processes is None and configuration in names():
        processes = 1 if configuration == "single_gpu" else _accelerators(configuration)
    number = [] if processes is None else ["--num_processes", str(processes)]
    return ["accelerate.commands.launch", "--config_file", str(file), *number]


def locate(configuration: str) -> Path:
    """The file of a configuration of ours, or the file that is named. Raises UserError where there is neither."""
    if configuration in names():
        return FOLDER / f"{configuration}.yaml"
    if Path(configuration).is_file():
        return Path(configuration).resolve()
    hint = did_you_mean(configuration, names())
    raise UserError(f"--accelerate_config: no file {configuration}; {hint} there are {', '.join(names())}")


def _accelerators(configuration: str) -> int:
    import torch

    there = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if not there:
        raise UserError(f"--accelerate_config {configuration}: this machine shows no GPU; multi_cpu needs none")
    return there
