"""The processes of one run, as a launcher started them (``accelerate launch``, ``torchrun``); alone, there is one.

All of them read the same rows, draw the same batches and keep the same selector. Each takes its share of a batch; what
crosses the network in a step is one number a row of the batch and the gradients of the adapters. The first process
alone writes files and speaks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long a process waits for the others: the first may evaluate for hours. Where one dies the launcher ends them."""

_alone = False


def count() -> int:
    """How many processes share the work at hand."""
    return 1 if _alone else int(os.environ.get("WORLD_SIZE") or 1)


def index() -> int:
    """Which of them this one is, from 0."""
    return 0 if _alone else int(os.environ.get("RANK") or 0)


def is_first() -> bool:
    """Whether this process writes files and speaks. Also within ``alone``, where only the first one works."""
    return int(os.environ.get("RANK") or 0) == 0


@contextmanager
def alone() -> Iterator[None]:
    """For work that the first process does while the others wait: no share is given away."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


@cache
def join() -> None:
    """Meet the other processes, each on a device of its own. Once."""
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)


def wait() -> None:
    """Go on when all have come here."""
    if count() > 1:
        agreed(0)


def agreed(number: int) -> int:
    """The largest number that a process gave: the same for all."""
    if count() == 1:
        return number
    import torch
    from torch import distributed

    told = torch.tensor(number, device=_device())
    distributed.all_reduce(told, distributed.ReduceOp.MAX)
    return int(told)


@contextmanager
def first_goes_first() -> Iterator[None]:
    """The first process does this, then the others: they find in files what it has made."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


def shares(pieces: Sequence[T]) -> Iterator[tuple[T, bool]]:
    """The pieces of this process, and whether each counts.

    All processes get equally many, since sharded weights are gathered by all at once: where pieces run out, one comes
    again that does not count.
    """
    for start in range(0, len(pieces), count()):
        place = start + index()
        yield pieces[min(place, len(pieces) - 1)], place < len(pieces)


def total(values: Tensor) -> Tensor:
    """The sum over all processes, the same bits for all."""
    if count() == 1:
        return values
    from torch import distributed

    there = values.to(_device())
    distributed.all_reduce(there)
    return there.to(values.device)


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the gradients of replicated parameters over all processes."""
    if count() == 1:
        return
    from torch import distributed

    works = [distributed.all_reduce(p.grad, async_op=True) for p in parameters if p.grad is not None]
    for work in works:
        work.wait()


class Share:
    """Rows 0 to n - 1 whose numbers this process keeps: all of them, or with ``split`` every ``count``-th."""

    def __init__(self, n: int, *, split: bool = False) -> None:
        self.n = n
        split = split and n >= count()  # fewer rows than processes are not worth it
        self.every = count() if split else 1
        self.first = index() if split else 0

    def __len__(self) -> int:
        return len(range(self.first, self.n, self.every))

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Which of these rows (B,) are kept here, as positions in ``rows`` and as places among those kept."""
        if self.every == 1:
            return rows.new_ones(len(rows)).cumsum(0) - 1, rows
        mine = (rows % self.every == self.first).nonzero()[:, 0]
        return mine, rows[mine] // self.every

    def part(self, whole: Tensor) -> Tensor:
        """A copy of what is kept here of numbers (N,) of all rows."""
        return whole[self.first :: self.every].clone()

    def whole(self, part: Tensor) -> Tensor:
        """The numbers (N,) of all rows, from all processes. The only thing here that grows with N on the network."""
        if self.every == 1:
            return part
        found = part.new_zeros(self.n)
        found[self.first :: self.every] = part
        return total(found)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over the processes that keep a part."""
        return value if self.every == 1 else total(value)


def is_lost_partner(error: RuntimeError) -> bool:
    """Whether a sum failed because another process is gone."""
    from torch.distributed import DistError

    lost = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "recv timeout", "Timed out waiting")
    return count() > 1 and (isinstance(error, DistError) or any(words in str(error) for words in lost))


def shards_base() -> bool:
    """Whether the launcher asks for a base that is spread over the processes: FSDP, or stage 3 of DeepSpeed's ZeRO."""
    return fsdp_shards() or deepspeed_shards()


def fsdp_shards() -> bool:
    """Whether it asks for FSDP. Then the base under an adapter that is tuned is spread by torch, as while ranking."""
    return count() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def deepspeed_shards() -> bool:
    """Whether it asks for stage 3 of ZeRO. Then DeepSpeed spreads a model that is tuned, from whole weights."""
    return count() > 1 and os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true" and _zero_stage() == "3"


def _zero_stage() -> str:
    """The stage of ZeRO that accelerate's configuration names, or the file of DeepSpeed's that it names."""
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    if not file:
        return os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "")
    try:
        return str(json.loads(Path(file).read_text(encoding="utf-8"))["zero_optimization"]["stage"])
    except (OSError, ValueError, KeyError, TypeError):  # DeepSpeed tells what is wrong with it
        return ""


@contextmanager
def spread_already() -> Iterator[None]:
    """Within it accelerate is not asked to shard: it sees processes that share the data alone."""
    name = "ACCELERATE_USE_FSDP"
    asked = os.environ.pop(name)
    try:
        yield
    finally:
        os.environ[name] = asked


def shard(model: PreTrainedModel, blocks: Iterable[nn.Module], adapters: Sequence[nn.Parameter]) -> None:
    """Spread the frozen weights of the blocks over the processes; a block is whole only while it computes.

    Adapters, embeddings and the output layer stay whole everywhere: they are small beside the blocks, and replicated
    adapters are trained as without sharding. Torch does it in place, for DeepSpeed's stage 3 too: DeepSpeed's engine
    steps one optimizer, and the players have one each. The first process alone has the weights when this begins.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    device = _device()
    mesh = init_device_mesh(device.type, (count(),))
    loaded = dict(model.named_parameters()) | dict(model.named_buffers())  # what sharding leaves of them is a part
    for block in blocks:
        fully_shard(block, mesh=mesh, ignored_params=set(adapters), reshard_after_forward=True)
    whole = {p for p in model.parameters() if not isinstance(p, DTensor)}
    # The root: it lets the next block be fetched while one computes.
    fully_shard(model.base_model, mesh=mesh, ignored_params=whole)
    if is_first():
        for tensor in (*whole, *model.buffers()):
            tensor.data = tensor.data.to(device)
    else:
        model.to_empty(device=device)
        model.tie_weights()
    _hand_out(model, loaded)


def sharded_names(model: nn.Module) -> list[str]:
    """Parameters of which this process holds a part."""
    from torch.distributed.tensor import DTensor

    return [name for name, p in model.named_parameters() if isinstance(p, DTensor)]


def _hand_out(model: PreTrainedModel, loaded: Mapping[str, Tensor]) -> None:
    """Fill all parameters and buffers with what the first process has loaded, each process its part."""
    import torch
    from torch import distributed
    from torch.distributed.tensor import DTensor, distribute_tensor

    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if isinstance(tensor, DTensor):
                given = loaded[name] if is_first() else torch.empty(tensor.shape, dtype=tensor.dtype)
                part = distribute_tensor(given.to(tensor.device), tensor.device_mesh, tensor.placements)
                tensor.to_local().copy_(part.to_local())
            else:
                distributed.broadcast(tensor.data, src=0)


def _device() -> torch.device:
    import torch

    join()
    accelerator: Any = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")
