"""Loading models and tokenizers from the hub, folders, GGUF files, adapters, or an installed Python package."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealtune.core import distributed
from sealtune.core.config import Config
from sealtune.core.distributed import device
from sealtune.core.errors import UserError
from sealtune.core.sanitize import excerpt
from sealtune.data.chat_template import get_template_info
from sealtune.models import adapter_folder, sharding
from sealtune.models.adapter_chain import adapter_of, base_of, chain_of, combinable
from sealtune.models.checkpoint_files import require_model_files
from sealtune.models.frozen_lora import add_frozen
from sealtune.models.merging import merge
from sealtune.models.model_cache import cached_folder
from sealtune.models.pretrained import load_checked
from sealtune.models.skeleton import skeleton
from sealtune.models.sources import PACKAGED_MODELS, resolve_model
from sealtune.models.vocabulary import require_embedded

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

FOUR_BIT_BLOCK = 64
"""Weights that bitsandbytes quantises together."""

FINGERPRINT_BYTES = 2**20
"""Number of bytes hashed at each end of a file."""


def load_tokenizer(config: Config) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a pad token if it names any token for it.

    Raises:
        UserError: It cannot be loaded, or has tokens that the model lacks.
    """
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = _from_pretrained(AutoTokenizer, config)
    require_embedded(tokenizer, _from_pretrained(AutoConfig, config), config.model_name_or_path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def load_model(config: Config, *, full: bool = False, all_processes: bool = False) -> PreTrainedModel:
    """The model, on the device of this process unless its base is sharded later.

    Args:
        config: Names the model.
        full: All weights will be trained: they are loaded in float32, and autocast computes in ``dtype``.
        all_processes: Load the weights in every process. Otherwise, if the base is sharded, only the main process
            loads them, and the others get a model without weights.

    Raises:
        UserError: The model cannot be loaded, or not with ``load_in_4bit``.
    """
    from transformers import AutoModelForCausalLM

    options = _model_options(config, full=full)
    if sharding.shards_base() and not (all_processes or distributed.is_main_process()):
        model = _without_weights(config, options["dtype"])
    else:
        model = _from_pretrained(AutoModelForCausalLM, config, **options)
    if not (config.load_in_4bit or sharding.shards_base()):  # a sharded model moves to the device block by block
        model = model.to(device())
    if getattr(model, "is_loaded_in_4bit", False):  # by the setting, or because the files hold such weights
        _prepare_four_bit(model, options["dtype"])
    for adapter in _unmerged(config):
        add_frozen(model, adapter)
    model.config.use_cache = False
    _return_no_router_logits(model.config)
    return model.eval()


def _return_no_router_logits(model_config: PreTrainedConfig) -> None:
    """With them, a mixture of experts computes a loss for training in every forward pass, and cannot generate."""
    text_config = model_config.get_text_config()
    if hasattr(text_config, "output_router_logits"):
        text_config.output_router_logits = False


def _prepare_four_bit(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Make 4-bit layers compute in ``dtype``, whatever their files say, and keep bitsandbytes from packing on a CPU
    weights whose rows are no whole number of blocks, which fails.
    """
    for module in model.modules():
        if hasattr(module, "compute_type_is_set"):
            module.compute_dtype, module.compute_type_is_set = dtype, True
        if getattr(module, "support_avx512bf16_for_cpu", False) and module.in_features % FOUR_BIT_BLOCK:
            module.support_avx512bf16_for_cpu = False


def _model_options(config: Config, *, full: bool) -> dict[str, Any]:
    """Options of ``from_pretrained``."""
    import torch

    dtype = torch.float32 if full else compute_dtype(config)
    options: dict[str, Any] = {"dtype": dtype}
    if config.attn_implementation:
        options["attn_implementation"] = config.attn_implementation
    if config.load_in_4bit:
        if full:
            raise UserError("load_in_4bit: 4-bit weights cannot be trained; set use_peft to true")
        if sharding.shards_base():
            raise UserError(
                "load_in_4bit: a 4-bit base cannot be sharded; use --accelerate_config multi_gpu, or bfloat16"
            )
        options |= {"quantization_config": _four_bit(dtype), "device_map": {"": device()}}
    return options


def compute_dtype(config: Config) -> torch.dtype:
    """``dtype``; for ``auto``, bfloat16 if the hardware supports it, otherwise float32."""
    import torch

    if config.dtype != "auto":
        dtype = getattr(torch, config.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype
    if device().type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        supported = device().type == "cpu" and cpu_has_bf16()
    return torch.bfloat16 if supported else torch.float32


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware."""
    import torch

    # Older releases of torch lack get_capabilities, newer ones may lack the private function.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    older = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or older())


def model_fingerprint(config: Config) -> str:
    """Identifies the model's weights: hub id and revision, or a hash of the files of a local folder; for an adapter, of
    its base too.

    Only the name, the size and both ends of a file are hashed: fast, and the same on every machine.
    """
    if (adapter := adapter_of(config)) is not None:
        parts = f"{model_fingerprint(base_of(config, adapter))} {_folder_fingerprint(adapter)}"
        return hashlib.sha256(parts.encode()).hexdigest()[:16]
    source = resolve_model(config.model_name_or_path)
    return _folder_fingerprint(Path(source)) if Path(source).exists() else f"{source}@{config.model_revision or 'main'}"


def _folder_fingerprint(folder: Path, *, times: bool = False) -> str:
    """A hash of the files of a folder; ``times``: and of when they were changed, which differs between machines."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        size = path.stat().st_size
        with path.open("rb") as file:
            digest.update(f"{path.name} {size} ".encode() + file.read(FINGERPRINT_BYTES))
            file.seek(max(FINGERPRINT_BYTES, size - FINGERPRINT_BYTES))
            digest.update(file.read())
        if times:
            digest.update(str(path.stat().st_mtime_ns).encode())
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what determines the tokens of a conversation: tokenizer, chat template and library versions."""
    import tokenizers
    import transformers

    rules = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else tokenizer.name_or_path
    template = get_template_info(tokenizer).template if tokenizer.chat_template else ""
    content = f"{transformers.__version__} {tokenizers.__version__} {tokenizer.chat_template} {template} {rules}"
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def resolve_source(config: Config) -> str:
    """The folder or hub id that transformers loads: of an adapter, a copy of its base with the adapter merged in."""
    adapter = adapter_of(config)
    return resolve_model(config.model_name_or_path) if adapter is None else str(_merged_copy(config, adapter))


def _merged_copy(config: Config, adapter: Path) -> Path:
    """A cached checkpoint of an adapter's base with the adapter merged into it, in the dtype of the run.

    Raises:
        UserError: The base or the adapter cannot be loaded, or adapters of its kind cannot be merged.
    """
    base, dtype = base_of(config, adapter), compute_dtype(config)
    try:
        content = f"{_version(base)} {_folder_fingerprint(adapter, times=True)} {dtype}"
        name = f"{adapter.name}-merged-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
        return cached_folder(name, lambda folder: _merge(base, adapter, dtype, folder))
    except UserError as error:
        cause = str(error).removeprefix("model_name_or_path: ")
        where = f"model_name_or_path: {adapter} is an adapter of {base.model_name_or_path}"
        raise UserError(f"{where}, and the two cannot be merged: {cause}") from None


def _version(config: Config) -> str:
    """Identifies the files of a model on this machine."""
    from transformers import AutoConfig

    source = resolve_source(config)
    if Path(source).exists():
        return _folder_fingerprint(Path(source), times=True)
    return f"{source} {load_checked(AutoConfig, source, config)._commit_hash}"


def _merge(base: Config, adapter: Path, dtype: torch.dtype, folder: Path) -> None:
    """Write the base with the adapter merged into it, and the adapter's tokenizer or else the base's."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logger.info("merging %s into a copy of %s, once", adapter, base.model_name_or_path)
    with torch.random.fork_rng(devices=[]):  # a run draws the same numbers, whether it merges or finds the copy
        model = _from_pretrained(AutoModelForCausalLM, base, dtype=dtype)
        try:
            if getattr(model, "hf_quantizer", None) is not None:  # quantised weights cannot hold the sum exactly
                model = model.dequantize(dtype)
                model._weight_conversions = None  # those of quantised weights do not apply when it is saved
            merged = merge(adapter_folder.apply_adapter(model, adapter), str(adapter))
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, RuntimeError, ValueError, TypeError) as error:
            raise UserError(f"this kind of adapter or base cannot be merged ({excerpt(error, 200)})") from error
        merged.save_pretrained(str(folder))
    source = str(adapter) if adapter_folder.has_tokenizer(adapter) else resolve_source(base)
    load_checked(AutoTokenizer, source, base).save_pretrained(str(folder))


def public_name(config: Config) -> str:
    """The name for readers on other machines: the hub id of a packaged model, otherwise ``model_name_or_path``."""
    name = config.model_name_or_path
    return PACKAGED_MODELS[name][1] if name in PACKAGED_MODELS else name


def _without_weights(config: Config, dtype: torch.dtype) -> Any:
    """The model on the meta device: it gets its weights from the main process."""
    from transformers import AutoConfig

    model_config = _from_pretrained(AutoConfig, config)
    attention = {"attn_implementation": config.attn_implementation} if config.attn_implementation else {}
    model = skeleton(model_config, dtype=dtype, trust_remote_code=config.trust_remote_code, **attention)
    if model is None:
        raise UserError(
            f"model_name_or_path: {config.model_name_or_path} cannot be made without weights, so its base cannot be "
            "sharded; use --accelerate_config multi_gpu"
        )
    return model


def _four_bit(dtype: torch.dtype) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("load_in_4bit needs the package bitsandbytes; pip install 'sealtune[quant]'")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _unmerged(config: Config) -> list[Path]:
    """The adapters that are not merged into a copy of their base: with 4-bit weights they stay beside them, frozen.

    Merged, they would be quantised with the base, and the tuned adapter would be evaluated on other numbers than it
    was tuned on.
    """
    chain = combinable(config) if config.load_in_4bit else None
    return [] if chain is None else chain.adapters


def _from_pretrained(auto_class: Any, config: Config, **options: Any) -> Any:
    """``auto_class.from_pretrained`` of the model that the config names. Raises UserError."""
    if unmerged := _unmerged(config):
        config = chain_of(config).base
        if auto_class.__name__ == "AutoTokenizer":
            own = next(filter(adapter_folder.has_tokenizer, unmerged), None)
            return load_checked(auto_class, str(own or resolve_source(config)), config, **options)
    source = resolve_source(config)
    if Path(source).exists():
        require_model_files(Path(source))
    return load_checked(auto_class, source, config, **options)
