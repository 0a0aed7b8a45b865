"""Models whose files hold quantised weights already: what cannot be done with them, and what they need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from sealtune.core.config import Config
from sealtune.core.distributed import device
from sealtune.core.errors import UserError
from sealtune.core.sanitize import excerpt
from sealtune.models import sharding

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

FOUR_BIT = "bitsandbytes_4bit"
"""The method of ``load_in_4bit``, as transformers names it."""
INSTEAD = "give the model as it was before quantisation"
PACKAGES = {
    "awq": "gptqmodel",
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "fbgemm_fp8": "fbgemm-gpu",
    "gptq": "optimum gptqmodel",
    "quanto": "optimum-quanto",
    "quark": "amd-quark",
}
"""The packages that a method needs, where its name is not theirs."""


class Kind(NamedTuple):
    """What a quantisation permits.

    Attributes:
        stays: The weights stay quantised when they are loaded.
        trainable: Adapters on them can be trained.
        problem: Why they cannot be loaded on this machine.
    """

    stays: bool = True
    trainable: bool = True
    problem: str | None = None


def quantisation(model_config: PreTrainedConfig) -> dict[str, Any] | None:
    """The ``quantization_config`` of a config.json; None if the weights are not quantised."""
    parts = (model_config, model_config.get_text_config())
    found = next((value for part in parts if (value := getattr(part, "quantization_config", None))), None)
    return dict(found) if isinstance(found, Mapping) else found.to_dict() if found else None


def method_of(values: Mapping[str, Any]) -> str:
    """The name of the quantisation, as in transformers."""
    name = str(getattr(values.get("quant_method"), "value", values.get("quant_method")))
    if values.get("load_in_8bit") or values.get("load_in_4bit"):  # older files of bitsandbytes state no method
        return FOUR_BIT if values.get("load_in_4bit") else "bitsandbytes_8bit"
    return name


def check_quantised(config: Config, model_config: PreTrainedConfig, *, ranks: bool, tunes: bool) -> None:
    """Raise UserError if the model is quantised, and a setting cannot work with it or a package is missing.

    Args:
        config: The config that names the model.
        model_config: The model's config.json.
        ranks: The model will rank rows.
        tunes: The model will be tuned.
    """
    values = quantisation(model_config)
    if values is None:
        return
    method = method_of(values)
    about = f"the weights of {config.model_name_or_path} are quantised ({method})"
    if config.load_in_4bit and method != FOUR_BIT:
        raise UserError(f"load_in_4bit: {about} already; set load_in_4bit to false")
    kind = _examine(values, method)
    if not kind.stays:
        return
    for name, used, block in (("rank", ranks, config.rank), ("tune", tunes, config.tune)):
        if used and not block.use_peft:
            raise UserError(f"{name}.use_peft: {about} and cannot be trained; set it to true, or {INSTEAD}")
    if tunes and config.tune.merge:
        raise UserError(f"tune.merge: {about}, and no adapter can be merged into them; set it to false, or {INSTEAD}")
    if kind.problem:
        raise UserError(f"model_name_or_path: {about}, and they cannot be loaded here: {kind.problem}")
    if tunes and not kind.trainable:
        raise UserError(f"tune: {about}, and no adapter can be trained on this kind; {INSTEAD}")
    if sharding.shards_base():
        raise UserError(f"{about} and cannot be sharded; use --accelerate_config multi_gpu, or {INSTEAD}")


def require_trainable(model: PreTrainedModel, setting: str) -> None:
    """Raise UserError that names the setting if the weights of this model, which it trains, are quantised."""
    if getattr(model, "hf_quantizer", None) is not None:
        raise UserError(f"{setting}: the weights are quantised and cannot be trained; set it to true, or {INSTEAD}")


def _examine(values: Mapping[str, Any], method: str) -> Kind:
    """What transformers says of this quantisation on this machine."""
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, AutoHfQuantizer

    if method not in AUTO_QUANTIZER_MAPPING:
        return Kind(problem=f"transformers reads no such quantisation; {INSTEAD}")
    try:
        quantizer = AutoHfQuantizer.from_config(dict(values), pre_quantized=True)
        quantizer.validate_environment(device_map={"": device()})
        stays = not getattr(quantizer.quantization_config, "dequantize", False)
        return Kind(stays=stays, trainable=bool(quantizer.is_trainable))
    except ImportError as error:
        return Kind(problem=excerpt(error, 300) + _pip_install(method, str(error)))
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        return Kind(problem=excerpt(error, 300))


def _pip_install(method: str, message: str) -> str:
    """The command that installs the package of a method, unless the message states it."""
    return f"; pip install {PACKAGES.get(method, method)}" if "pip install" not in message else ""
