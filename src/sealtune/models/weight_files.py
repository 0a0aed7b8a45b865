"""Whether the weights of a model's folder fit its config.json, by the headers of the files alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealtune.core.errors import UserError
from sealtune.models.checkpoint_files import read_json, require_safetensors, shorten

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5", "*.onnx", "*.safetensors")
_FLOATS = {"F64", "F32", "F16", "BF16"}
"""The dtypes, as safetensors names them, whose numbers are the weights themselves."""
_BUFFERS = re.compile(r"(^|\.)(attn|attention)\.(masked_)?bias$|(^|\.)position_ids$")
"""Masks and positions that older versions of transformers saved with the weights, as integers."""


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers loads from a folder.

    Raises:
        UserError: There are none, or only weights in another format.
    """
    config = folder / "config.json"
    named = read_json(config).get("transformers_weights") if config.is_file() else None
    if isinstance(named, str) and (folder / named).is_file():
        return [folder / named] if named.endswith(".safetensors") else []
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if (folder / INDEX).is_file():
        return sorted({folder / name for name in read_json(folder / INDEX)["weight_map"].values()})
    raise UserError(f"model_name_or_path: {folder} cannot be loaded: it {_instead(folder)}")


def _instead(folder: Path) -> str:
    """What a folder without loadable weights has, and what to do."""
    found = sorted({path.name for pattern in _OTHER_FORMATS for path in folder.glob(pattern)})
    shards = [name for name in found if _SHARD.fullmatch(name)]
    if shards:
        return f"has {shorten(shards)} but no {INDEX}, which says what is in which; download it too"
    if not found:
        return f"has no weights: neither {WHOLE} nor {INDEX}; download the rest of the model"
    return (
        f"has no {WHOLE}, only {shorten(found)}; weights are read from safetensors alone: convert them "
        "(load them with transformers where you trust them, and call model.save_pretrained)"
    )


def require_float_weights(folder: Path) -> None:
    """Raise UserError if weights are stored as integers or in 8 bits, and config.json does not say how to read them.

    Only for a model without ``quantization_config``: transformers would cast the stored numbers.
    """
    from safetensors import safe_open

    for path in weight_files(folder):
        require_safetensors(path)
        with safe_open(str(path), "pt") as file:
            names = [name for name in file.keys() if not _BUFFERS.search(name)]  # noqa: SIM118 - no mapping
            odd = {name: dtype for name in names if (dtype := file.get_slice(name).get_dtype()) not in _FLOATS}
        _require_none(path, {name: dtype for name, dtype in odd.items() if name.endswith((".weight", "_proj"))})


def _require_none(path: Path, odd: dict[str, str]) -> None:
    if odd:
        listed = shorten([f"{name} ({dtype})" for name, dtype in sorted(odd.items())])
        raise UserError(
            f"model_name_or_path: {path} stores quantised weights, {listed}, but the config.json beside it has no "
            "quantization_config that says how to read them; take the original config.json, or the model as it was "
            "before quantisation"
        )


def require_finite(model: PreTrainedModel, name: str) -> None:
    """Raise UserError that names the weights with NaN or infinity. Quantised weights are not examined."""
    damaged = [key for key, weight in model.named_parameters() if not _is_finite(weight)]
    if damaged:
        raise UserError(
            f"model_name_or_path: {name} has NaN or infinity in {shorten(damaged)}; its training diverged or the file "
            "is damaged: take an earlier checkpoint, or download it again"
        )


def _is_finite(weight: Any) -> bool:
    import torch

    if weight.is_meta or not weight.is_floating_point() or weight.itemsize < 2 or not weight.numel():
        return True
    lowest, highest = torch.aminmax(weight.detach())  # both are NaN if any weight is; far faster than isfinite
    return bool(lowest.isfinite()) and bool(highest.isfinite())
