"""A frozen base model sharded over several GPUs."""

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

USE_FSDP = "ACCELERATE_USE_FSDP"
"""Environment variable by which ``accelerate launch`` requests FSDP."""


def shards_base() -> bool:
    """Whether the launcher requests that the base be sharded over the processes: FSDP or ZeRO-3."""
    return uses_fsdp() or uses_zero3()


def uses_fsdp() -> bool:
    """Whether the launcher requests FSDP."""
    return num_processes() > 1 and os.environ.get(USE_FSDP, "").lower() == "true"


def uses_zero3() -> bool:
    """Whether the launcher requests stage 3 of DeepSpeed's ZeRO."""
    return (
        num_processes() > 1
        and os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
        and _zero_stage() == "3"
    )


def _zero_stage() -> str:
    """The ZeRO stage of the accelerate configuration, or of the DeepSpeed configuration file that it names."""
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    if not file:
        return os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "")
    try:
        return str(json.loads(Path(file).read_text(encoding="utf-8"))["zero_optimization"]["stage"])
    except (OSError, ValueError, KeyError, TypeError):  # DeepSpeed reports what is wrong with the file
        return ""


@contextmanager
def without_accelerate_fsdp() -> Iterator[None]:
    """Hide the request for FSDP from accelerate, which then sets up plain data parallelism."""
    value = os.environ.pop(USE_FSDP)
    try:
        yield
    finally:
        os.environ[USE_FSDP] = value


def shard(model: PreTrainedModel, blocks: Iterable[nn.Module], adapters: Sequence[nn.Parameter]) -> None:
    """Shard the frozen weights of the blocks over the processes, in place. A block is gathered only while it computes.

    Adapters, embeddings and the output layer are replicated: they are small compared to the blocks, and replicated
    adapters are trained as without sharding. PyTorch's FSDP shards for ZeRO-3 too, because a DeepSpeed engine steps
    one optimizer and every player has its own. Only the main process holds the weights when this is called.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    here = device()
    mesh = init_device_mesh(here.type, (num_processes(),))
    loaded = dict(model.named_parameters()) | dict(model.named_buffers())  # before sharding replaces them
    for block in blocks:
        fully_shard(block, mesh=mesh, ignored_params=set(adapters), reshard_after_forward=True)
    replicated = {p for p in model.parameters() if not isinstance(p, DTensor)}
    # A sharded root prefetches the next block while the current one computes.
    fully_shard(model.base_model, mesh=mesh, ignored_params=replicated)
    if is_main_process():
        for tensor in (*replicated, *model.buffers()):
            tensor.data = tensor.data.to(here)
    else:
        model.to_empty(device=here)
        model.tie_weights()
    _broadcast(model, loaded)


def sharded_names(model: nn.Module) -> list[str]:
    """Names of the sharded parameters."""
    from torch.distributed.tensor import DTensor

    return [name for name, p in model.named_parameters() if isinstance(p, DTensor)]


def _broadcast(model: PreTrainedModel, loaded: Mapping[str, Tensor]) -> None:
    """Copy what the main process has loaded to all processes: shards of sharded parameters, all else in full."""
    import torch
    from torch import distributed
    from torch.distributed.tensor import DTensor, distribute_tensor

    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if isinstance(tensor, DTensor):
                full = loaded[name] if is_main_process() else torch.empty(tensor.shape, dtype=tensor.dtype)
                shards = distribute_tensor(full.to(tensor.device), tensor.device_mesh, tensor.placements)
                tensor.to_local().copy_(shards.to_local())
            else:
                distributed.broadcast(tensor.data, src=0)
