"""The config.json of the model that a config names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from sealtune.core.config import Config
from sealtune.core.errors import UserError
from sealtune.models.load import _from_pretrained, resolve_model

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def load_model_config(config: Config) -> PreTrainedConfig:
    """The model's config.json, of any source that ``load_model`` reads. Raises UserError if it cannot be loaded."""
    from transformers import AutoConfig

    if (base := _base_of_adapter(config)) is not None:
        return load_model_config(config.model_copy(update={"model_name_or_path": base, "model_revision": None}))
    try:
        loaded: PreTrainedConfig = _from_pretrained(AutoConfig, config)
    except (AttributeError, TypeError, KeyError) as error:  # a value of another type than the library expects
        cause = " ".join(str(error).split())[:300]
        raise UserError(
            f"model_name_or_path: {config.model_name_or_path}: its config.json is broken: {cause}"
        ) from None
    return loaded


def _base_of_adapter(config: Config) -> str | None:
    """The base of an adapter's folder, which has no config.json of its own; None for any other model."""
    folder = Path(resolve_model(config.model_name_or_path))
    path = folder / "adapter_config.json"
    if not path.is_file() or (folder / "config.json").is_file():
        return None
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        base = None
    if not isinstance(base, str) or not base or base == config.model_name_or_path:
        raise UserError(f"model_name_or_path: {path} names no base model")
    return base
