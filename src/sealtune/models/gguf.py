"""GGUF files, converted to safetensors and cached."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import shutil
import tempfile
from pathlib import Path
from typing import Any

from sealtune.core.errors import UserError
from sealtune.core.files import cache_folder


def cached_conversion(path: Path) -> Path:
    """A safetensors folder with the model of the GGUF file, in the user's cache.

    A file is converted once, because transformers takes half a minute to load a GGUF file.

    Raises:
        UserError: The file cannot be read, or the package gguf is not installed.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    folder = cache_folder() / "models" / f"{path.stem}-{digest}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            _convert(path, scratch)
            with contextlib.suppress(OSError):  # another process was faster
                scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _convert(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"{path}: reading GGUF needs the package gguf; pip install 'sealtune[gguf]'")
    source: dict[str, Any] = {"gguf_file": path.name}
    try:
        model = AutoModelForCausalLM.from_pretrained(str(path.parent), dtype=torch.bfloat16, **source)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise UserError(f"{path}: cannot be read as GGUF: {' '.join(str(error).split())[:300]}") from None
    if hasattr(model.config, "quantization_config"):  # the weights are dequantized; they could not be saved with it
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(str(folder))
    AutoTokenizer.from_pretrained(str(path.parent), **source).save_pretrained(str(folder))
