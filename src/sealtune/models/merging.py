"""An adapter merged into its base, with proof that the merged model computes the same."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from sealtune.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PROBED = 16
"""Tokens whose logits are compared."""


def merge(adapted: Any, what: str) -> Any:
    """The base with its adapter merged into it. The PeftModel is changed, and cannot be used any more.

    Args:
        adapted: A PeftModel.
        what: The setting or folder that a message names.

    Raises:
        UserError: The merged model has other logits than the base with its adapter.
    """
    adapted.eval()
    before = _logits(adapted)
    _untie(adapted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of tied weights, which are taken care of
        merged = adapted.merge_and_unload()
    _require_same(before, _logits(merged), what, next(merged.parameters()).dtype)
    return merged


def merge_output_layer(adapted: Any) -> None:
    """Merge the output layer's adapter alone, in place: losses are computed from one weight per token."""
    base = adapted.get_base_model()
    head = base.get_output_embeddings()
    if head is not None and _has_adapter(head):
        _untie(adapted)
        head.merge()
        base.set_output_embeddings(head.get_base_layer())


def _untie(adapted: Any) -> None:
    """Copy a weight that the embedding and the output layer share, if either has an adapter that the other lacks."""
    from torch import nn

    base = adapted.get_base_model()
    own, head = base.get_input_embeddings(), base.get_output_embeddings()
    if head is None or not (_has_adapter(own) or _has_adapter(head)):
        return
    layers = [getattr(layer, "base_layer", layer) for layer in (own, head)]
    if layers[0].weight is layers[1].weight:
        layers[1].weight = nn.Parameter(layers[1].weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = base.config.get_text_config().tie_word_embeddings = False


def _has_adapter(layer: Any) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(layer, BaseTunerLayer)


def _logits(model: Any) -> Tensor:
    """Logits (PROBED, V) in float32 of tokens from the whole vocabulary, the last ones included."""
    import torch

    weight = model.get_input_embeddings().weight
    tokens = torch.linspace(1, weight.shape[0] - 1, PROBED, device=weight.device).long()
    with torch.no_grad():
        logits: Tensor = model(input_ids=tokens[None], use_cache=False).logits[0].float()
    return logits


def _require_same(before: Tensor, after: Tensor, what: str, dtype: torch.dtype) -> None:
    """Compare the logits of most tokens: in a mixture of experts, rounding may send one to another expert."""
    import torch

    difference = float(((after - before).norm(dim=-1) / before.norm(dim=-1)).median())
    if not difference <= torch.finfo(dtype).eps ** 0.5:  # rounding of weights and activations adds up; NaN fails too
        raise UserError(
            f"{what}: merging changes what the model computes (its logits by {difference:.1%}), so the merged model is "
            "not written; set dtype to float32, or leave base and adapter apart"
        )
