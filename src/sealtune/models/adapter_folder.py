"""An adapter's folder in the layout of PEFT: the base that it names, and the adapter put on a model."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sealtune.core.errors import UserError
from sealtune.core.sanitize import excerpt
from sealtune.models.adapter_settings import CONFIG, require_known, require_usable
from sealtune.models.checkpoint_files import read_json, require_genuine, shorten
from sealtune.models.sources import PACKAGED_MODELS, is_packaged

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
_WRAPPER = re.compile(r"\.(modules_to_save(\.default)?|base_layer|original_module)(?=\.)")
"""What PEFT inserts into the names of the base's own tensors."""
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model")


class Base(NamedTuple):
    """The model that an adapter stands on: a path or hub id, and its revision on the hub."""

    name: str
    revision: str | None


def is_adapter(folder: Path) -> bool:
    """Whether the folder contains an adapter rather than a full model."""
    return (folder / CONFIG).is_file()


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder contains a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


@lru_cache(maxsize=8)
def hub_adapter(name: str, revision: str | None) -> Path | None:
    """The local snapshot of an adapter on the hub; None if the hub id is that of a full model, or unknown."""
    from huggingface_hub import snapshot_download
    from transformers.utils import find_adapter_config_file

    try:
        if find_adapter_config_file(name, revision=revision or "main") is None:
            return None
        wanted = ["adapter_*", "*.jinja", "tokenizer*", "*token*.json", "vocab*", "merges.txt"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except (OSError, ValueError):  # no hub id, or no connection: loading it will say so
        return None


def read_base(folder: Path) -> Base:
    """The base that an adapter's config names: a hub id, or a path from the working directory or from the folder.

    Raises:
        UserError: The folder is not only an adapter, its config names no base, or one that does not exist, or PEFT
            does not know all settings, or cannot merge such an adapter.
    """
    require_genuine(folder)
    config = read_json(folder / CONFIG)
    if any(folder.glob("model*.safetensors")):
        raise UserError(
            f"model_name_or_path: {folder} has both a model (model*.safetensors) and an adapter ({CONFIG}); move one "
            "of them to a folder of its own"
        )
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not name:
        raise UserError(f"model_name_or_path: {folder}/{CONFIG} names no base model; set base_model_name_or_path in it")
    require_usable(folder)
    for path in (Path(name).expanduser(), folder / name):
        if path.exists() and path.resolve() != folder.resolve():
            return Base(str(path), None)
    packaged = next((short for short, (_, hub_id) in PACKAGED_MODELS.items() if hub_id == name), name)
    if is_packaged(packaged):
        return Base(packaged, None)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(
            f"model_name_or_path: {folder} is an adapter whose base model {name} does not exist; correct "
            f"base_model_name_or_path in its {CONFIG}"
        )
    return Base(name, revision if isinstance(revision, str) else None)


def apply_adapter(model: PreTrainedModel, folder: Path) -> Any:
    """A PeftModel: the adapter in the folder on ``model``, which is changed in place. All its tensors are used.

    Raises:
        UserError: The adapter cannot be read, PEFT does not know all its settings, or its tensors do not fit the model.
    """
    from peft import PeftModel

    return _apply(model, folder, lambda: PeftModel.from_pretrained(model, str(folder), ignore_mismatched_sizes=True))


def apply_without_weights(model: PreTrainedModel, folder: Path) -> Any:
    """Like ``apply_adapter``, on a model on the meta device: only the header of the adapter's file is read."""
    from peft import PeftConfig, get_peft_model

    def apply() -> Any:
        return get_peft_model(model, PeftConfig.from_pretrained(str(folder)), low_cpu_mem_usage=True)

    return _apply(model, folder, apply)


def _apply(model: PreTrainedModel, folder: Path, apply: Callable[[], Any]) -> Any:
    saved = adapter_shapes(folder)
    require_known(folder)
    try:
        _resize_embeddings(model, saved, folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tensors that do not fit are named below
            adapted = apply().eval()
            saved = _as_loaded(adapted, saved)
    except UserError:
        raise
    except Exception as error:  # PEFT raises whatever a damaged config leads to
        cause = excerpt(error, 300)
        raise UserError(f"{folder}: the adapter cannot be loaded: {cause}") from error
    _require_same_tensors(adapted, saved, folder)
    return adapted


def _require_same_tensors(adapted: Any, saved: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Raise UserError that names tensors of the file that are missing, left over, or of another shape."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    expected = {key: tuple(value.shape) for key, value in state.items()}
    if missing := sorted(expected.keys() - saved.keys()):
        raise UserError(f"{folder}: {WEIGHTS} lacks {shorten(missing)}, which {CONFIG} calls for")
    own = {_WRAPPER.sub("", key) for key in adapted.state_dict()}
    if unexpected := sorted(key for key in saved.keys() - expected.keys() if _WRAPPER.sub("", key) not in own):
        raise UserError(f"{folder}: {WEIGHTS} has {shorten(unexpected)}, for which the base model has no place")
    others = [f"{key} {saved[key]} instead of {shape}" for key, shape in expected.items() if saved[key] != shape]
    if others:
        raise UserError(
            f"{folder}: {WEIGHTS} has tensors of another shape than its base and {CONFIG} call for: "
            f"{shorten(sorted(others))}; the adapter was trained on another model"
        )


def _as_loaded(adapted: Any, saved: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes as PEFT gives them to the model: it stacks the experts of older files."""
    import torch

    try:
        from peft.utils.transformers_weight_conversion import (
            convert_peft_adapter_state_dict_for_transformers as convert,
        )
    except ImportError:  # an older PEFT, which converts nothing
        return saved
    config = next(iter(adapted.peft_config.values()))
    state = {name: torch.empty(shape, device="meta") for name, shape in saved.items()}
    return {name: tuple(value.shape) for name, value in convert(adapted, config, state).items()}


def adapter_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of an adapter, by name. Raises UserError if it is not stored as safetensors."""
    from safetensors import SafetensorError, safe_open

    require_genuine(folder)
    if not (folder / WEIGHTS).is_file():  # peft would read a pickle, or ask the hub
        raise UserError(f"{folder}: no {WEIGHTS}; adapters are read from safetensors alone")
    try:
        with safe_open(str(folder / WEIGHTS), "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{folder}: the adapter cannot be loaded: {WEIGHTS} is cut short or damaged ({error})"
        ) from None


def _resize_embeddings(model: PreTrainedModel, saved: dict[str, tuple[int, ...]], folder: Path) -> None:
    """Give the model as many tokens as the adapter's saved embedding has: tokens were added before it was trained."""
    names = {id(module): name for name, module in model.named_modules()}
    own, head = model.get_input_embeddings(), model.get_output_embeddings()

    def rows(module: Any) -> int | None:
        key = f"base_model.model.{names.get(id(module))}"
        shape = saved.get(f"{key}.weight") or saved.get(f"{key}.base_layer.weight")
        return shape[0] if shape else None

    wanted = rows(own) or rows(head)
    if wanted is None or wanted == own.weight.shape[0]:
        return
    tied = head is None or head.weight is own.weight
    if not tied and (rows(own) is None or rows(head) is None):
        raise UserError(
            f"{folder}: the adapter was trained with {wanted} tokens, its base has {own.weight.shape[0]}, and the "
            "adapter holds only one of embedding and output layer; resize the base to that number, and save it"
        )
    model.resize_token_embeddings(wanted, mean_resizing=False)
