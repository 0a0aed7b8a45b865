"""Whether the files of a model's folder are what their names say, checked before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sealtune.core.errors import UserError
from sealtune.data.file_signatures import HEAD_BYTES, require_content

SETTINGS_FILES = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
)
"""JSON objects that transformers ignores, or stumbles over, where they are damaged."""
TEMPLATES = ("*.jinja", "additional_chat_templates/*.jinja")
TEXT_FILES = ("*.json", "*.jinja", "tokenizer.model", "*.txt")


def require_model_files(folder: Path) -> None:
    """Check a model's folder: config.json, all weights, and that no file is a git-lfs pointer or a web page.

    Raises:
        UserError: A file is missing, damaged, or something else than its name says.
    """
    require_genuine(folder)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"model_name_or_path: {folder} cannot be loaded: it has no config.json; give the folder with config.json, "
            "the weights and the tokenizer"
        )
    read_json(folder / "config.json")
    require_settings_files(folder)
    for index in sorted(folder.glob("*.safetensors.index.json")):
        _check_index(index)
    for weights in sorted(folder.glob("*.safetensors")):
        require_safetensors(weights)


def require_settings_files(folder: Path) -> None:
    """Raise UserError if a settings file of a model or tokenizer is no JSON object, or a chat template no text."""
    for name in SETTINGS_FILES:
        if (folder / name).is_file():
            content = read_json(folder / name)
            if name == "generation_config.json":
                _require_token_ids(folder / name, content)
    for template in sorted(path for pattern in TEMPLATES for path in folder.glob(pattern)):
        try:
            template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"model_name_or_path: {template} is no text in UTF-8 ({error}); save it as UTF-8, or download it again"
            ) from None


def _require_token_ids(path: Path, content: dict[str, Any]) -> None:
    """Raise UserError if what ends an answer is not a token's number, or several."""
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = content.get(key)
        if not all(type(token) is int for token in (value if isinstance(value, list) else [value or 0])):
            raise UserError(f"model_name_or_path: {path}: {key} is {value!r}, not the number of a token; correct it")


def require_genuine(folder: Path) -> None:
    """Raise UserError if a file of the folder is a git-lfs pointer, a web page or an archive."""
    for pattern in (*TEXT_FILES, "*.safetensors"):
        for path in sorted(folder.glob(pattern)):
            if path.is_file():
                require_content(path, read_head(path))


def read_head(path: Path) -> bytes:
    """The first bytes of a file. Raises UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise UserError(f"model_name_or_path: {path} cannot be read: {error.strerror}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError if it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"model_name_or_path: {path} is not valid JSON ({error}); download the file again") from None
    if not isinstance(content, dict):
        raise UserError(f"model_name_or_path: {path} is not a JSON object; download the file again")
    return content


def require_safetensors(path: Path) -> None:
    """Raise UserError if the file is cut short, or not safetensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"model_name_or_path: {path} is cut short or damaged ({error}); download the file again"
        ) from None


def _check_index(index: Path) -> None:
    """Raise UserError if a weight index names an absent file, or one that might be a pickle."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        elsewhere = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"model_name_or_path: {index} cannot be read as a weight index") from None
    for name in elsewhere:
        raise UserError(f"model_name_or_path: {index} lists {name!r}, not a safetensors file in its folder")
    absent = sorted(name for name in names if not (index.parent / name).is_file())
    if absent:
        raise UserError(
            f"model_name_or_path: {index} lists {shorten(absent)}, which the folder lacks; download the rest"
        )


def shorten(names: list[str], most: int = 3) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
