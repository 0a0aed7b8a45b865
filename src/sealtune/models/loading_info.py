"""Whether a checkpoint has exactly the tensors of its model."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sealtune.core.errors import UserError
from sealtune.core.sanitize import excerpt
from sealtune.models.checkpoint_files import shorten

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_OLD_BUFFERS = re.compile(r"\.(masked_bias|inv_freq)$")
"""Constants that older versions of transformers saved with the weights."""


def require_complete(model: PreTrainedModel, info: Mapping[str, Any], name: str) -> None:
    """Raise UserError that names the tensors if a checkpoint lacks some, has others, or has them in another shape.

    Tied weights, and what transformers ignores for the model's family, are not in ``info``. Buffers that the model
    computes itself may be in the checkpoint too: older versions saved them.

    Args:
        model: The loaded model.
        info: What ``from_pretrained(output_loading_info=True)`` reports.
        name: The checkpoint.
    """
    where = f"model_name_or_path: {name}"
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"{where} lacks {_tensors(missing)}; download or save the model again")
    if mismatched := sorted(f"{key} {tuple(own)} instead of {tuple(new)}" for key, own, new in info["mismatched_keys"]):
        raise UserError(f"{where} has tensors of another shape than its config.json says: {shorten(mismatched)}")
    buffers = {key for key, _ in model.named_buffers()}
    if unexpected := sorted(k for k in info["unexpected_keys"] if k not in buffers and not _OLD_BUFFERS.search(k)):
        raise UserError(
            f"{where} has {_tensors(unexpected)} that its model class does not know; config.json names another model "
            "than the weights, or the checkpoint has a head of its own: save it as a plain causal language model"
        )
    if info.get("error_msgs"):
        raise UserError(f"{where} cannot be loaded: {excerpt(info['error_msgs'][0], 300)}")


def _tensors(names: list[str]) -> str:
    return f"the tensor {names[0]}" if len(names) == 1 else f"{len(names)} tensors ({shorten(names)})"


@contextmanager
def without_load_report() -> Iterator[None]:
    """Hide the table that transformers prints of tensors that do not fit: ``require_complete`` names them in a line."""

    def keep(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
