"""GGUF files, whole or in parts, converted to safetensors and cached."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from sealtune.core.errors import UserError
from sealtune.core.files import hash_file
from sealtune.core.sanitize import excerpt
from sealtune.data.file_signatures import require_content
from sealtune.models.checkpoint_files import read_head, shorten
from sealtune.models.gguf_leftovers import own_reader, require_all_read
from sealtune.models.gguf_rope import ROPE_TENSORS
from sealtune.models.gguf_settings import apply_settings, missing_defaults, read_settings, require_settings
from sealtune.models.loading_info import require_complete, without_load_report
from sealtune.models.model_cache import cached_folder

MAGIC = b"GGUF"
FORMAT = 3
"""Version of the conversion; another one converts every file again."""
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
_SPLIT_TENSORS = "split.tensors.count"


class _Content(NamedTuple):
    """What a model's parts hold together: architecture, its settings, the tensors; and their name for messages."""

    family: str
    settings: dict[str, Any]
    tensors: list[Any]
    shown: str


def is_gguf(path: Path) -> bool:
    """Whether the name is that of a GGUF file."""
    return path.suffix.lower() == ".gguf"


def find_gguf(folder: Path) -> Path | None:
    """The GGUF file of a folder (of parts, the first); None if the folder has none.

    Raises:
        UserError: There are several.
    """
    files = sorted(path for path in folder.iterdir() if is_gguf(path) and path.is_file())
    parts = {path: _PART.fullmatch(path.name) for path in files}
    models = {(part[1], part[3]) if part else path.name: path for path, part in reversed(parts.items())}
    if len(models) > 1:
        names = shorten(sorted(path.name for path in models.values()), most=8)
        raise UserError(f"model_name_or_path: {folder} has several GGUF models; give one of the files: {names}")
    return next(iter(models.values()), None)


def cached_conversion(path: Path) -> Path:
    """A safetensors folder with the model of the GGUF file, in the user's cache.

    A model is converted once, because transformers takes half a minute to load a GGUF file.

    Args:
        path: The file, or any of its parts (``name-00001-of-00002.gguf``).

    Raises:
        UserError: A file cannot be read, a part or a tensor is missing, or the package gguf is not installed.
    """
    parts = find_parts(path)
    for part in parts:
        require_content(part, read_head(part), MAGIC)
    digests = [_hash(part.resolve(), part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
    digest = (digests[0] if len(parts) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest())[:16]
    return cached_folder(f"{path.stem}-{digest}-{FORMAT}", lambda folder: _convert(parts, folder))


@cache
def _hash(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file of this size and time of change; a run asks for it many times, and it may be gigabytes."""
    return hash_file(path)


def find_parts(path: Path) -> list[Path]:
    """All parts of the model that this file is a part of, in order; the file alone if its name is not that of a part.

    Raises:
        UserError: A part is missing.
    """
    own = _PART.fullmatch(path.name)
    if own is None:
        return [path]
    found = {
        int(match[2]): other
        for other in path.parent.iterdir()
        if (match := _PART.fullmatch(other.name)) and (match[1], match[3]) == (own[1], own[3])
    }
    missing = [f"{own[1]}-{i:05d}-of-{own[3]}.gguf" for i in range(1, int(own[3]) + 1) if i not in found]
    if missing:
        raise UserError(f"{path}: other parts of this model are not in its folder: {shorten(missing)}; download them")
    return [found[i] for i in range(1, int(own[3]) + 1)]


def _convert(parts: Sequence[Path], folder: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"{parts[0]}: reading GGUF needs the package gguf; pip install 'sealtune[gguf]'")
    try:
        readers = [_open(part) for part in parts]  # once each: they take seconds to read a vocabulary
        _check_split(parts, readers)
        family, settings = read_settings(readers[0])
        require_settings(family, settings, str(parts[0]))
        content = _Content(family, settings, [tensor for reader in readers for tensor in reader.tensors], str(parts[0]))
        added = missing_defaults(family, settings)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            is_whole = len(parts) == 1 and not added
            whole = parts[0] if is_whole else _join(readers[0], content, Path(scratch) / "whole.gguf", added)
            _save_as_safetensors(whole, content, folder)
    except UserError:
        raise
    except Exception as error:  # the reader raises whatever a damaged file leads to
        raise UserError(f"{parts[0]}: cannot be read as GGUF: {excerpt(error, 300)}") from error


def _save_as_safetensors(whole: Path, content: _Content, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"gguf_file": whole.name}
    family, settings, tensors, shown = content
    config = AutoConfig.from_pretrained(str(whole.parent), **source)
    apply_settings(config, family, settings, _rope_tensors(tensors), shown, scaling_only=own_reader(family))
    options = {"output_loading_info": True, "ignore_mismatched_sizes": True} | _unpacked()
    with without_load_report():
        model, info = AutoModelForCausalLM.from_pretrained(
            str(whole.parent), config=config, dtype=torch.bfloat16, **options, **source
        )
    require_complete(model, info, shown)
    require_all_read(model, family, [tensor.name for tensor in tensors], shown)
    if hasattr(model.config, "quantization_config"):  # the weights are dequantized; they could not be saved with it
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(str(folder))
    AutoTokenizer.from_pretrained(str(whole.parent), **source).save_pretrained(str(folder))


def _unpacked() -> dict[str, Any]:
    """The option that makes weights numbers; else newer versions keep them packed, which cannot be saved."""
    try:
        from transformers.utils.quantization_config import GgufConfig
    except ImportError:  # before weights could stay packed
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _open(path: Path) -> Any:
    from gguf import GGUFReader

    return GGUFReader(path)


def _rope_tensors(tensors: Sequence[Any]) -> dict[str, Any]:
    """Those of the tensors that scale rotary embeddings, in float64."""
    from gguf import dequantize

    found = [tensor for tensor in tensors if tensor.name in ROPE_TENSORS]
    return {tensor.name: dequantize(tensor.data, tensor.tensor_type).ravel().astype("float64") for tensor in found}


def _check_split(parts: Sequence[Path], readers: Sequence[Any]) -> None:
    """Raise UserError if a file says that it is another part than its name does, or if the parts lack tensors."""
    tensors, declared = 0, None
    for number, (part, reader) in enumerate(zip(parts, readers, strict=True)):
        count, own = (_value(reader, key) for key in ("split.count", "split.no"))
        if (count or 1) != len(parts) or (own or 0) != number:
            raise UserError(
                f"{part}: this is part {(own or 0) + 1} of {count or 1}, but its name says otherwise; parts are named "
                "NAME-00001-of-00002.gguf and so on, as they were downloaded"
            )
        tensors += len(reader.tensors)
        declared = _value(reader, _SPLIT_TENSORS) or declared
    if declared is not None and declared != tensors:
        raise UserError(f"{parts[0]}: the parts have {tensors} tensors, not {declared}; download all of them again")


def _value(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _join(first: Any, content: _Content, target: Path, added: Mapping[str, int]) -> Path:
    """Write one GGUF file with the settings of the first part, those added, and the tensors of all."""
    from gguf import GGUFValueType, GGUFWriter

    writer = GGUFWriter(target, arch=content.family, endianess=first.endianess)
    for name, field in first.fields.items():
        if name == "general.architecture" or name.startswith(("GGUF.", "split.")):  # the writer writes these
            continue
        is_list = field.types[0] == GGUFValueType.ARRAY
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=field.types[-1] if is_list else None)
    for name, value in added.items():
        writer.add_uint32(name, value)
    for t in content.tensors:
        writer.add_tensor_info(t.name, t.data.shape, t.data.dtype, t.data.nbytes, t.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for t in content.tensors:
        writer.write_tensor_data(t.data)
    writer.close()
    return target
