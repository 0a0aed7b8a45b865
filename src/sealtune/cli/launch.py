"""``--accelerate_config``: run the same command in the processes that accelerate's launcher starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sealtune.core.errors import UserError, did_you_mean

CONFIG_FOLDER = Path(__file__).parent / "accelerate_configs"
LAUNCHED = "SEALTUNE_LAUNCHED"
"""Environment variable of launched processes, which must not launch again."""


def config_names() -> list[str]:
    """The names of the launcher configs that come with sealtune."""
    return sorted(["multi_cpu", *(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))])


def launch(config: str, num_processes: int | None, arguments: Sequence[str]) -> None:
    """Replace this process by the launcher of ``sealtune ARGUMENTS``; return at once in a launched process.

    Raises:
        UserError: ``config`` is neither a known name nor a file, it needs a GPU and there is none, or another launcher
            is running.
    """
    if LAUNCHED in os.environ:
        return
    if "WORLD_SIZE" in os.environ:
        raise UserError("--accelerate_config: another launcher is running already; use only one of the two")
    os.environ[LAUNCHED] = "1"
    sys.stderr.flush()
    launcher = _launcher_command(config, num_processes)
    os.execv(sys.executable, [sys.executable, "-m", *launcher, "-m", "sealtune", *arguments])


def _launcher_command(config: str, num_processes: int | None) -> list[str]:
    """Accelerate's launcher, except for CPU processes: there it needs MPI, torchrun needs nothing."""
    if config == "multi_cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
        return ["torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes or 2)]
    path = find_config(config)
    if num_processes is None and config in config_names():
        num_processes = 1 if config == "single_gpu" else _count_gpus(config)
    number = [] if num_processes is None else ["--num_processes", str(num_processes)]
    return ["accelerate.commands.launch", "--config_file", str(path), *number]


def find_config(config: str) -> Path:
    """The file of a named launcher config, or the file at this path. Raises UserError if there is none."""
    if config in config_names():
        return CONFIG_FOLDER / f"{config}.yaml"
    if Path(config).is_file():
        return Path(config).resolve()
    hint = did_you_mean(config, config_names())
    raise UserError(f"--accelerate_config: no file {config}; {hint} known: {', '.join(config_names())}")


def _count_gpus(config: str) -> int:
    import torch

    count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if not count:
        raise UserError(f"--accelerate_config {config}: this machine has no visible GPU; multi_cpu needs none")
    return count
