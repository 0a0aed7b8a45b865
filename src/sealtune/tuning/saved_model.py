"""The tuned model on disk: saved, merged, and loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sealtune.core.config import Config
from sealtune.core.errors import UserError
from sealtune.models.load import compute_dtype, load_model, public_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: Config, folder: Path) -> None:
    """Write the tokenizer and the adapter, or the full model if it was tuned in full or ``tune.merge`` is set."""
    tokenizer.save_pretrained(str(folder))
    model.config.use_cache = True  # off only while training
    if config.tune.use_peft and config.tune.merge:
        model = model.merge_and_unload()
    if config.tune.use_peft and not config.tune.merge:
        for adapter in model.peft_config.values():
            adapter.base_model_name_or_path = public_name(config)
        model.save_pretrained(str(folder), save_embedding_layers=False)
    else:
        model.to(compute_dtype(config)).save_pretrained(str(folder))


def is_adapter(folder: Path) -> bool:
    """Whether the folder contains an adapter rather than a full model."""
    return (folder / "adapter_config.json").exists()


def load_tuned(base: PreTrainedModel | None, folder: Path, config: Config) -> PreTrainedModel:
    """The tuned model: the adapter in ``folder`` on ``base``, or the full model in ``folder``.

    Raises:
        UserError: The folder cannot be loaded.
    """
    if is_adapter(folder):
        return _load_adapter(base, folder)
    return load_model(config.model_copy(update={"model_name_or_path": str(folder), "model_revision": None}))


def _load_adapter(base: PreTrainedModel | None, folder: Path) -> PreTrainedModel:
    from peft import PeftModel
    from safetensors import SafetensorError

    if not (folder / "adapter_model.safetensors").is_file():  # peft would read a pickle, or ask the hub
        raise UserError(f"{folder}: no adapter_model.safetensors; adapters are read from safetensors alone")
    try:
        return PeftModel.from_pretrained(base, str(folder)).eval()
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise UserError(f"{folder}: the adapter cannot be loaded: {error}") from None
