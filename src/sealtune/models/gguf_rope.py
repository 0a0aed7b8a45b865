"""Rotary embeddings of a GGUF file, as transformers states them: base, rotated dimensions, scaling.

transformers reads none of a file's scaling. Each kind is put into the config where the two agree exactly, and refused
where they do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sealtune.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedConfig

    Array = np.ndarray[Any, Any]

FREQ_FACTORS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
ROPE_TENSORS = (FREQ_FACTORS, LONG, SHORT)
"""Tensors that are no weights: divisors of the frequencies."""
FREQ_BASE = 10_000.0
"""The base of a file that states none, as in llama.cpp."""
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_TOLERANCE = 1e-3


def set_rope(
    config: PreTrainedConfig,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Array],
    name: str,
    *,
    scaling_only: bool = False,
) -> None:
    """Put the rotary embeddings that a file states into the config.

    Args:
        config: What transformers reads from the file; changed in place.
        settings: The file's settings, without the architecture before their names.
        tensors: Those of ``ROPE_TENSORS`` that the file has.
        name: The file.
        scaling_only: transformers has read all but the scaling.

    Raises:
        UserError: They cannot be stated exactly.
    """
    scaling = _scaling(settings, tensors, name)
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        if scaling or tensors:
            raise UserError(f"{name}: {config.model_type} has no rotary embeddings to scale in transformers")
        return
    own = parameters.get("full_attention", parameters)  # some families have others for layers with a sliding window
    if not scaling_only:
        _set_base(parameters, own, settings)
        _set_partial(config, own, settings, name)
    if scaling:
        _replace_scaling(config, own, scaling)
    if FREQ_FACTORS in tensors:
        _set_factors(config, own, tensors[FREQ_FACTORS], name)


def _set_base(parameters: dict[str, Any], own: dict[str, Any], settings: Mapping[str, Any]) -> None:
    own["rope_theta"] = float(settings.get("rope.freq_base", FREQ_BASE))
    if own is not parameters and "sliding_attention" in parameters:
        parameters["sliding_attention"]["rope_theta"] = float(settings.get("rope.freq_base_swa", FREQ_BASE))


def _set_partial(config: PreTrainedConfig, own: dict[str, Any], settings: Mapping[str, Any], name: str) -> None:
    """State which part of each head is rotated; families without a field for it rotate all of it."""
    width, rotated = head_width(settings), settings.get("rope.dimension_count")
    if width is None or hasattr(config, "rotary_dim"):
        return
    fraction = (rotated or width) / width
    if "partial_rotary_factor" in own:
        own["partial_rotary_factor"] = fraction
    elif fraction != 1:
        raise UserError(
            f"{name} rotates {rotated} of the {width} dimensions of a head (rope.dimension_count), which transformers "
            f"cannot do for {config.model_type}"
        )


def head_width(settings: Mapping[str, Any]) -> int | None:
    """The dimensions of a head's keys; None if they differ between layers."""
    width, heads = settings.get("attention.key_length"), settings.get("attention.head_count")
    if isinstance(width, int):
        return width
    return settings["embedding_length"] // heads if isinstance(heads, int) and heads else None


def _replace_scaling(config: PreTrainedConfig, own: dict[str, Any], scaling: dict[str, Any]) -> None:
    kept = {key: own[key] for key in own if key == "rope_theta" or key.startswith(("partial_", "mrope_"))}
    own.clear()
    own.update(kept | scaling)
    original = scaling.get("original_max_position_embeddings")
    if original and hasattr(config, "original_max_position_embeddings"):  # Phi 3 prefers it to its rope_parameters
        config.original_max_position_embeddings = original


def _scaling(settings: Mapping[str, Any], tensors: Mapping[str, Array], name: str) -> dict[str, Any] | None:
    """The scaling as ``rope_parameters``; None if there is none."""
    factor = settings.get("rope.scaling.factor") or settings.get("rope.scale_linear") or 1.0
    kind = settings.get("rope.scaling.type", "linear")  # as in llama.cpp
    if LONG in tensors or SHORT in tensors or kind == "longrope":
        return _long(settings, tensors, name)
    if kind == "none" or (kind == "linear" and factor == 1):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": float(factor)}
    if kind == "yarn":
        return _yarn(settings, float(factor), name)
    raise UserError(f"{name}: its rotary embeddings are scaled by {kind!r} (rope.scaling.type), which is unknown")


def _yarn(settings: Mapping[str, Any], factor: float, name: str) -> dict[str, Any]:
    extrapolation = settings.get("rope.scaling.yarn_ext_factor", 1.0)
    multiplier = settings.get("rope.scaling.yarn_log_multiplier", 0.0)
    if extrapolation != 1 or multiplier != 0:
        raise UserError(
            f"{name}: its YaRN scaling has yarn_ext_factor {extrapolation} and yarn_log_multiplier {multiplier}, which "
            "transformers cannot represent"
        )
    attention = settings.get("rope.scaling.attn_factor", 1.0) * settings.get("rope.scaling.yarn_attn_factor", 1.0)
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": _original_length(settings),
        "attention_factor": attention * (1 + 0.1 * math.log(factor)),
        "beta_fast": float(settings.get("rope.scaling.yarn_beta_fast", 32.0)),
        "beta_slow": float(settings.get("rope.scaling.yarn_beta_slow", 1.0)),
    }


def _long(settings: Mapping[str, Any], tensors: Mapping[str, Array], name: str) -> dict[str, Any]:
    missing = [key for key in (LONG, SHORT) if key not in tensors]
    if missing:
        raise UserError(f"{name}: its rotary embeddings are scaled by LongRoPE, and it lacks {missing[0]}")
    original = _original_length(settings)
    return {
        "rope_type": "longrope",
        "long_factor": tensors[LONG].tolist(),
        "short_factor": tensors[SHORT].tolist(),
        "factor": settings["context_length"] / original,
        "original_max_position_embeddings": original,
        "attention_factor": float(settings.get("rope.scaling.attn_factor", 1.0)),
    }


def _original_length(settings: Mapping[str, Any]) -> int:
    return int(settings.get("rope.scaling.original_context_length") or settings["context_length"])


def _set_factors(config: PreTrainedConfig, own: dict[str, Any], factors: Array, name: str) -> None:
    """State divisors of the frequencies as the parameters of Llama 3.1, of which llama.cpp computes them."""
    if (factors == 1).all():
        return
    refusal = UserError(
        f"{name}: the divisors of its rotary frequencies ({FREQ_FACTORS}) are not those of Llama 3.1's scaling, and "
        "transformers has no place for others; give the model in safetensors"
    )
    if own is not config.rope_parameters or own.get("rope_type", "default") != "default":
        raise refusal
    for candidate in (LLAMA3, _fit(own["rope_theta"], factors)):
        config.rope_parameters = own | {"rope_type": "llama3", "factor": float(factors.max())} | candidate
        if _reproduces(config, factors):
            return
    raise refusal


def _fit(theta: float, factors: Array) -> dict[str, float]:
    """Parameters of Llama 3.1's scaling from its divisors, with the low factor 1: only the ratios matter.

    Between the two wavelengths orig / high and orig / low, with m the smallest multiplier 1 / max(factors), the
    multiplier of a frequency is (1 - s) m + s, where s = (orig / wavelength - low) / (high - low).
    """
    import numpy as np

    smallest = 1 / factors.max()
    share = (1 / factors - smallest) / (1 - smallest)
    frequency = theta ** -(np.arange(len(factors)) / len(factors)) / (2 * math.pi)
    between = (share > _TOLERANCE) & (share < 1 - _TOLERANCE)
    if between.sum() < 2:
        return dict(LLAMA3)
    slope, offset = np.polyfit(frequency[between], share[between], 1)
    high = 1 - 1 / offset
    return LLAMA3 | {"high_freq_factor": float(high), "original_max_position_embeddings": round(slope * (high - 1))}


def _reproduces(config: PreTrainedConfig, factors: Array) -> bool:
    """Whether the scaling that transformers computes of the config is division by the factors."""
    import numpy as np
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = config.rope_parameters["rope_theta"] ** -(np.arange(len(factors)) / len(factors))
    return scaled.shape == factors.shape and bool(np.allclose(scaled.numpy() * factors, plain, rtol=_TOLERANCE))
