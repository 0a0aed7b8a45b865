"""The processes of a run, started by ``accelerate launch`` or ``torchrun``; a single one without a launcher.

All processes read the same rows, draw the same batches and store the same selector; each computes its part of a batch.
Per step, one number per row of the batch and the gradients of the adapters are exchanged. Only the main process writes
files and logs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState
    from torch import Tensor, nn

T = TypeVar("T")

TIMEOUT = timedelta(days=7)
"""How long a process waits for the others, since the main one may evaluate for hours; the launcher handles crashes."""

_main_process_only = False


def is_launched() -> bool:
    """Whether a launcher started several processes. Reads only the environment, without importing torch."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


@cache
def state() -> PartialState:
    """Accelerate's state; the first call joins the process group."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available(), timeout=TIMEOUT)


def num_processes() -> int:
    """The number of processes that share the current work."""
    return 1 if _main_process_only or not is_launched() else int(state().num_processes)


def process_index() -> int:
    """The index of this process, from 0."""
    return 0 if _main_process_only or not is_launched() else int(state().process_index)


def is_main_process() -> bool:
    """Whether this process writes files and logs."""
    return not is_launched() or bool(state().is_main_process)


@contextmanager
def main_process_only() -> Iterator[None]:
    """Split no work: for a block that only the main process runs while the others wait."""
    global _main_process_only
    before, _main_process_only = _main_process_only, True
    try:
        yield
    finally:
        _main_process_only = before


def barrier() -> None:
    """Wait until all processes reach this point."""
    if num_processes() > 1:
        state().wait_for_everyone()


@contextmanager
def main_process_first() -> Iterator[None]:
    """Run the block in the main process first, then in the others, which can read its files."""
    if num_processes() == 1:
        yield
        return
    with state().main_process_first():
        yield


def all_reduce_max(number: int) -> int:
    """The largest ``number`` of all processes."""
    if num_processes() == 1:
        return number
    import torch
    from torch import distributed

    largest = torch.tensor(number, device=device())
    distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return int(largest)


def split_between_processes(items: Sequence[T]) -> Iterator[tuple[T, bool]]:
    """The items of this process, each with a flag that is False for padding.

    Every process gets the same number of items, because gathering sharded weights takes all processes: the last item
    is repeated as padding.
    """
    for start in range(0, len(items), num_processes()):
        index = start + process_index()
        yield items[min(index, len(items) - 1)], index < len(items)


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum over all processes, bitwise identical in all of them."""
    if num_processes() == 1:
        return values
    from torch import distributed

    summed = values.to(device())
    distributed.all_reduce(summed)
    return summed.to(values.device)


def all_reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients of replicated parameters over all processes."""
    if num_processes() == 1:
        return
    from torch import distributed

    works = [distributed.all_reduce(p.grad, async_op=True) for p in parameters if p.grad is not None]
    for work in works:
        work.wait()


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether a collective operation failed because another process has died."""
    from torch.distributed import DistError

    lost = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "recv timeout", "Timed out waiting")
    return is_launched() and (isinstance(error, DistError) or any(message in str(error) for message in lost))


def device() -> torch.device:
    """The device of this process: its accelerator if there is one, otherwise the CPU."""
    import torch

    if is_launched():
        state()  # assigns a device to each process
    accelerator: Any = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")
