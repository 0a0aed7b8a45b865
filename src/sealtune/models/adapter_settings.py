"""Whether the installed PEFT knows everything that an adapter_config.json says, and can merge such an adapter."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from sealtune.core.errors import UserError
from sealtune.models.checkpoint_files import read_json, shorten

CONFIG = "adapter_config.json"
_WITHOUT_EFFECT = {"runtime_config", "qalora_group_size"}
"""Settings of newer versions that change nothing alone: where to compute, and the detail of a method that is off."""
_UNMERGEABLE = {"ADAPTION_PROMPT", "LILY", "POLY", "SHADOW", "XLORA"}
"""Kinds that add layers or choose between adapters; the prompt methods are known by PEFT's own flag."""


def require_usable(folder: Path) -> None:
    """Check an adapter's settings, since PEFT drops those that it does not know.

    Raises:
        UserError: PEFT does not know the kind of adapter or one of its settings, or the kind cannot be merged.
    """
    values = read_json(folder / CONFIG)
    require_known(folder)
    kind = str(values.get("peft_type"))
    if kind in _UNMERGEABLE or _adds_tokens(kind):
        raise UserError(
            f"model_name_or_path: {folder} is an adapter of the kind {kind}, which no weights of its base can hold; "
            "give the base model, or a LoRA adapter of it"
        )


def require_known(folder: Path) -> None:
    """Raise UserError that names settings of ``adapter_config.json`` that the installed PEFT would drop."""
    values = read_json(folder / CONFIG)
    kind = values.get("peft_type")
    if not isinstance(kind, str) or not kind:
        raise UserError(f"{folder}/{CONFIG}: it states no peft_type; download the adapter again")
    config_class = _config_class(kind)
    if config_class is None:
        raise UserError(f"{folder}/{CONFIG}: this PEFT does not know adapters of the kind {kind!r}; upgrade peft")
    known = _WITHOUT_EFFECT | set(inspect.signature(config_class.__init__).parameters)
    unknown = sorted(repr(name) for name, value in values.items() if value and name not in known)
    if unknown:
        raise UserError(
            f"{folder}/{CONFIG}: this PEFT does not know {shorten(unknown)}; upgrade peft, or delete from the file "
            "what has no effect"
        )


def _config_class(kind: str) -> Any:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return dict(PEFT_TYPE_TO_CONFIG_MAPPING).get(kind)  # type: ignore[call-overload]


def _adds_tokens(kind: str) -> bool:
    """Whether the kind puts trained vectors before the text, as prompt tuning does."""
    from peft import PromptLearningConfig

    config_class = _config_class(kind)
    return config_class is not None and issubclass(config_class, PromptLearningConfig)
