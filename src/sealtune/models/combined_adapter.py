"""Two LoRA adapters, one tuned on top of the other, as a single adapter on the first one's base.

B1 A1 s1 + B2 A2 s2 = [s1 B1, s2 B2] [A1; A2]: the ranks add up, and the result is exact.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealtune.models.adapter_folder import WEIGHTS, adapter_shapes
from sealtune.models.adapter_settings import CONFIG
from sealtune.models.checkpoint_files import read_json

if TYPE_CHECKING:
    from torch import Tensor

_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.(?P<part>lora_(embedding_)?[AB])(?P<suffix>(\.weight)?)")
_EXPERT = re.compile(r"\.experts\.\d+\.")
"""One expert of a mixture, whose weights transformers stacks with those of the others."""
_FREE = {
    *("r", "lora_alpha", "lora_dropout", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora"),
    *(
        "layers_to_transform",
        "layers_pattern",
        "exclude_modules",
        "base_model_name_or_path",
        "revision",
        "peft_version",
    ),
    *("task_type", "inference_mode", "auto_mapping", "fan_in_fan_out", "init_lora_weights", "megatron_core"),
    "qalora_group_size",  # of a method that is off, unless use_qalora is set too
}
"""Settings that a combined adapter keeps, replaces or does not need; any other must be as PEFT sets it by default."""
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", None)
"""Ways to start LoRA that leave the weights of the base as they are."""


def is_plain_lora(folder: Path) -> bool:
    """Whether the adapter is two factors per layer and no more: no DoRA, trained biases or embeddings."""
    return find_obstacle(folder) is None


def find_obstacle(folder: Path) -> str | None:
    """What keeps another LoRA from being combined with this adapter exactly; None if they can be."""
    from peft import LoraConfig

    config, defaults = read_json(folder / CONFIG), json.loads(json.dumps(LoraConfig().to_dict(), default=sorted))
    if config.get("peft_type") != "LORA":
        return f"peft_type {config.get('peft_type')}"
    if config.get("init_lora_weights") not in _PLAIN_STARTS:
        return f"init_lora_weights {config['init_lora_weights']}, which changes the base"
    for key, value in sorted(config.items()):
        if key not in _FREE and value != defaults.get(key) and value:
            return key if value is True else f"{key} {json.dumps(value)}"
    odd = next((name for name in adapter_shapes(folder) if not _TENSOR.fullmatch(name) or _EXPERT.search(name)), None)
    return None if odd is None else f"the tensor {odd}"


def read_factors(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """The factors A and B of a plain LoRA by module, in float32, with the scaling multiplied into B."""
    from safetensors.torch import load_file

    state = _scaled(load_file(folder / WEIGHTS), read_json(folder / CONFIG))
    parts = {(found["module"], found["part"][-1]): value for name, value in state.items() if (found := _match(name))}
    return {module: (parts[module, "A"], parts[module, "B"]) for module, part in parts if part == "A"}


def combine(first: Path, second: Path, modules: Collection[str]) -> None:
    """Put the adapter of ``first`` into that of ``second``, which was tuned on the model with ``first`` merged.

    Args:
        first: Folder of a plain LoRA.
        second: Folder of a plain LoRA; its files are replaced.
        modules: Names of all modules of the model, to name the adapted ones in short if possible.
    """
    import torch
    from safetensors.torch import load_file, save_file

    configs = [read_json(folder / CONFIG) for folder in (first, second)]
    states = [
        _scaled(load_file(folder / WEIGHTS), config) for folder, config in zip((first, second), configs, strict=True)
    ]
    combined = {}
    for name in {**states[0], **states[1]}:
        parts = [state[name] for state in states if name in state]
        combined[name] = torch.cat(parts, dim=0 if _match(name)["part"].endswith("A") else 1).contiguous()
    ranks = {_match(name)["module"]: len(value) for name, value in combined.items() if _match(name)["part"][-1] == "A"}
    config = configs[1] | _settings(ranks, modules)
    config["fan_in_fan_out"] = any(c.get("fan_in_fan_out") for c in configs)
    save_file(combined, second / WEIGHTS, metadata={"format": "pt"})
    (second / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _match(name: str) -> re.Match[str]:
    found = _TENSOR.fullmatch(name)
    assert found is not None, name
    return found


def _scaled(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The factors in float32, with the scaling multiplied into each B."""
    scaled = {}
    for name, value in state.items():
        found = _match(name)
        scale = 1.0
        if found["part"].endswith("B"):
            rank = value.shape[1]
            scale = _alpha(config, found["module"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)
        scaled[name] = value.float() * scale
    return scaled


def _alpha(config: Mapping[str, Any], module: str) -> float:
    """The ``lora_alpha`` of a module, found as PEFT does."""
    from peft.utils.other import get_pattern_key

    pattern: Mapping[str, float] = config.get("alpha_pattern") or {}
    return float(pattern.get(get_pattern_key(list(pattern), module), config["lora_alpha"]))


def _settings(ranks: Mapping[str, int], modules: Collection[str]) -> dict[str, Any]:
    """The settings of adapters of these ranks, by module, whose scaling is 1."""
    counts = list(ranks.values())
    common = max(set(counts), key=counts.count)
    pattern = {re.escape(module): rank for module, rank in sorted(ranks.items()) if rank != common}
    return {
        "r": common,
        "lora_alpha": common,
        "rank_pattern": pattern,
        "alpha_pattern": dict(pattern),
        "target_modules": _targets(set(ranks), modules),
        "use_rslora": False,
        **dict.fromkeys(("layers_to_transform", "layers_pattern", "exclude_modules")),
    }


def _targets(adapted: set[str], modules: Collection[str]) -> list[str]:
    """The last parts of the names, if no other module has one of them; otherwise the names in full."""
    short = {name.rpartition(".")[2] for name in adapted}
    return sorted(short if {name for name in modules if name.rpartition(".")[2] in short} <= adapted else adapted)
