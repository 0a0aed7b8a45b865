"""A LoRA adapter beside weights that stay as they are: merged into a 4-bit base, it would be quantised with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealtune.models.combined_adapter import read_factors

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def add_frozen(model: PreTrainedModel, folder: Path) -> None:
    """Add the product of the adapter's factors to the outputs of its layers, in place.

    The layers stay what they are, so that other adapters can be put on them and trained.

    Args:
        model: The adapter's base, on its device.
        folder: The folder of a plain LoRA, whose tensors are known to fit.
    """
    for name, (a, b) in read_factors(folder).items():
        layer: Any = model.get_submodule(name)
        device = layer.weight.device
        is_embedding = hasattr(layer, "num_embeddings")
        layer.register_forward_hook((_embedding if is_embedding else _linear)(a.to(device), b.to(device)))


def _linear(a: Tensor, b: Tensor) -> Callable[..., Tensor]:
    """A hook that adds x A^T B^T, computed in float32 as PEFT does."""

    def add(_layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + (inputs[0].to(a.dtype) @ a.T @ b.T).to(output.dtype)

    return add


def _embedding(a: Tensor, b: Tensor) -> Callable[..., Tensor]:
    """A hook that adds the rows of A^T B^T of the tokens."""

    def add(_layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + (a.T[inputs[0]] @ b.T).to(output.dtype)

    return add
