"""``from_pretrained`` of transformers, with every error in one line and every tensor accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sealtune.core.config import Config
from sealtune.core.errors import UserError
from sealtune.core.sanitize import excerpt
from sealtune.models.decoder import require_decoder
from sealtune.models.loading_info import require_complete, without_load_report
from sealtune.models.weight_files import require_finite, weight_files


def load_checked(auto_class: Any, source: str, config: Config, **options: Any) -> Any:
    """``auto_class.from_pretrained``; an error becomes one line.

    Args:
        auto_class: Of transformers.
        source: The folder or hub id.
        config: Names the model for messages, its revision on the hub, and whether its own code may run.
        options: More options of ``from_pretrained``.

    Raises:
        UserError: It cannot be loaded, is no causal language model, or lacks tensors, has others, or has NaN in them.
    """
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    options |= {"trust_remote_code": config.trust_remote_code, "revision": config.model_revision or "main"}
    name = config.model_name_or_path
    is_model = auto_class.__name__ == "AutoModelForCausalLM"
    if is_model:
        if Path(source).is_dir():
            weight_files(Path(source))
        options |= {
            "use_safetensors": True,  # never a pickle
            "output_loading_info": True,
            "ignore_mismatched_sizes": True,  # require_complete names them
        }
    try:
        with without_load_report():
            loaded = auto_class.from_pretrained(source, **options)
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a damaged file may raise anything; tokenizers raises a bare Exception
        cause = excerpt(error, 300)
        raise UserError(f"model_name_or_path: {name}{_problem(auto_class, error)}: {cause}") from error
    if auto_class.__name__ == "AutoConfig":
        require_decoder(loaded, name)
    if is_model:
        loaded, info = loaded
        require_complete(loaded, info, name)
        require_finite(loaded, name)
    return loaded


def _problem(auto_class: Any, error: Exception) -> str:
    """What cannot be loaded, and why that may be."""
    if auto_class.__name__ == "AutoConfig" and isinstance(error, (AttributeError, TypeError, KeyError)):
        return ": its config.json is broken"
    if auto_class.__name__ == "AutoTokenizer" and type(error) is Exception:  # as tokenizers raises it
        return ": its tokenizer.json is damaged, or of another version; update transformers and tokenizers"
    if "custom code" in str(error):
        return " needs code of its own (*.py); read it, and if you trust it, set trust_remote_code to true"
    return " cannot be loaded"
