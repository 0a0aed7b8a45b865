"""A model in memory that belongs to the caller: rankers change it, and it is given back as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sealtune.core.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@contextmanager
def borrowed(model: PreTrainedModel) -> Iterator[Callable[[bool], PreTrainedModel]]:
    """Yield a function like ``load_model(full)`` that loads nothing; afterwards the model is as it was.

    Adapters are put into the model itself. A model all of whose weights are trained is a copy in float32.

    Raises:
        UserError: The model has an adapter already, which would be trained on or ignored.
    """
    if hasattr(model, "peft_config"):
        raise UserError("model: it has an adapter; pass what model.merge_and_unload() returns, or the adapter's folder")
    training = {module: module.training for module in model.modules()}
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    checkpointing, use_cache = model.is_gradient_checkpointing, model.config.use_cache
    try:
        model.eval()
        model.config.use_cache = False
        yield lambda full: copy.deepcopy(model).float() if full else model
    finally:
        _remove_adapters(model)
        model.config.use_cache = use_cache
        if not checkpointing and model.is_gradient_checkpointing:
            model.gradient_checkpointing_disable()
        for module, was_training in training.items():
            module.training = was_training
        for parameter, was_trained in trained.items():
            parameter.requires_grad = was_trained


def _remove_adapters(model: PreTrainedModel) -> None:
    """Put the layers back that PEFT has wrapped."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapped: list[tuple[nn.Module, str, Any]] = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, BaseTunerLayer)
    ]
    for parent, name, child in wrapped:
        setattr(parent, name, child.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
