"""Tensors of a GGUF file for which the transformers model has no place."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sealtune.core.errors import UserError
from sealtune.models.checkpoint_files import shorten
from sealtune.models.gguf_rope import ROPE_TENSORS


def own_reader(family: str) -> bool:
    """Whether transformers reads this architecture with its newer reader, which reports tensors left over."""
    try:
        from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
    except ImportError:  # before that reader
        return False
    return family in GGUF_CONFIG_ARCHS


def require_all_read(model: Any, family: str, names: Collection[str], shown: str) -> None:
    """Raise UserError that names the tensors which transformers drops without a word.

    Args:
        model: The model made of the file.
        family: The architecture of the file.
        names: Its tensors.
        shown: The file, for the message.
    """
    if own_reader(family):
        return
    known = _known_names(model, family)
    left = sorted(name for name in names if name not in known and name not in ROPE_TENSORS)
    if left:
        raise UserError(f"{shown} has tensors that this model has no place for: {shorten(left)}")


def _known_names(model: Any, family: str) -> set[str]:
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    processor = TENSOR_PROCESSORS.get(family, TensorProcessor)(config=model.config.to_dict())
    known = set(get_gguf_hf_weights_map(model, processor))
    # the names of stacked experts are listed without their ending
    return known | {f"{name}.weight" for name in known if name.endswith("_exps")} | {"output.weight"}
