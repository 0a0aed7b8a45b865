"""The processes of one run, as a launcher started them (``accelerate launch``, ``torchrun``); one without a launcher.

All processes read the same rows, draw the same batches and hold the same selector. Each takes its share of a batch:
per step, one number per row of the batch and the gradients of the adapters cross the network. Only the main process
writes files and logs.
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
"""How long a process waits for the others: the main one may evaluate for hours. If one dies, the launcher ends all."""

_main_process_only = False


def is_launched() -> bool:
    """Whether a launcher started several processes. Reads the environment alone, so that one process stays fast."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


@cache
def state() -> PartialState:
    """Accelerate's view of the processes; joins the process group on the first call."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available(), timeout=TIMEOUT)


def num_processes() -> int:
    """How many processes share the current work."""
    return 1 if _main_process_only or not is_launched() else int(state().num_processes)


def process_index() -> int:
    """The index of this process, from 0."""
    return 0 if _main_process_only or not is_launched() else int(state().process_index)


def is_main_process() -> bool:
    """Whether this process writes files and logs."""
    return not is_launched() or bool(state().is_main_process)


@contextmanager
def main_process_only() -> Iterator[None]:
    """For work that the main process does while the others wait: nothing is split."""
    global _main_process_only
    before, _main_process_only = _main_process_only, True
    try:
        yield
    finally:
        _main_process_only = before


def barrier() -> None:
    """Wait until all processes get here."""
    if num_processes() > 1:
        state().wait_for_everyone()


@contextmanager
def main_process_first() -> Iterator[None]:
    """The main process runs the block first, then the others, which find its files."""
    if num_processes() == 1:
        yield
        return
    with state().main_process_first():
        yield


def all_reduce_max(number: int) -> int:
    """The largest ``number`` of any process; the same in all."""
    if num_processes() == 1:
        return number
    import torch
    from torch import distributed

    largest = torch.tensor(number, device=device())
    distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return int(largest)


def split_between_processes(pieces: Sequence[T]) -> Iterator[tuple[T, bool]]:
    """The pieces of this process, and whether each counts.

    All processes get the same number, because sharded weights are gathered by all of them together: where the pieces
    run out, one is repeated and does not count.
    """
    for start in range(0, len(pieces), num_processes()):
        place = start + process_index()
        yield pieces[min(place, len(pieces) - 1)], place < len(pieces)


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum over all processes, bit for bit the same in all."""
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
    """Whether a collective operation failed because another process is gone."""
    from torch.distributed import DistError

    lost = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "recv timeout", "Timed out waiting")
    return is_launched() and (isinstance(error, DistError) or any(words in str(error) for words in lost))


def device() -> torch.device:
    """The device of this process: its accelerator where there is one, else the CPU."""
    import torch

    if is_launched():
        state()  # gives each process its own device
    accelerator: Any = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")
