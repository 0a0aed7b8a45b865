"""A frozen base over several GPUs, in parts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sealtune.core.distributed import device, is_main_process, num_processes

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


def shards_base() -> bool:
    """Whether the launcher asks for a base that is spread over the processes: FSDP, or stage 3 of DeepSpeed's ZeRO."""
    return uses_fsdp() or uses_zero3()


def uses_fsdp() -> bool:
    """Whether it asks for FSDP. Then the base under an adapter that is tuned is spread by torch, as while ranking."""
    return num_processes() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def uses_zero3() -> bool:
    """Whether it asks for stage 3 of ZeRO. Then DeepSpeed spreads a model that is tuned, from whole weights."""
    return (
        num_processes() > 1
        and os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
        and _zero_stage() == "3"
    )


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
def base_already_sharded() -> Iterator[None]:
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

    here = device()
    mesh = init_device_mesh(here.type, (num_processes(),))
    loaded = dict(model.named_parameters()) | dict(model.named_buffers())  # what sharding leaves of them is a part
    for block in blocks:
        fully_shard(block, mesh=mesh, ignored_params=set(adapters), reshard_after_forward=True)
    whole = {p for p in model.parameters() if not isinstance(p, DTensor)}
    # The root: it lets the next block be fetched while one computes.
    fully_shard(model.base_model, mesh=mesh, ignored_params=whole)
    if is_main_process():
        for tensor in (*whole, *model.buffers()):
            tensor.data = tensor.data.to(here)
    else:
        model.to_empty(device=here)
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
                given = loaded[name] if is_main_process() else torch.empty(tensor.shape, dtype=tensor.dtype)
                part = distribute_tensor(given.to(tensor.device), tensor.device_mesh, tensor.placements)
                tensor.to_local().copy_(part.to_local())
            else:
                distributed.broadcast(tensor.data, src=0)
