"""Which files the README.md of a data set names, in the YAML block that the hub reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sealtune.core.config_io import MAX_CHARACTERS, InvalidYamlError, parse
from sealtune.core.errors import UserError

DataFiles = Mapping[str, Sequence[str]]
"""Split -> patterns of its files, relative to the folder."""

_FRONT_MATTER = re.compile(r"\A\ufeff?---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_READING_OPTIONS = frozenset(
    {"field", "header", "names", "column_names", "skiprows", "quoting", "quotechar", "escapechar", "comment"}
)
"""Options of the hub's loaders that change which rows are read."""


def read_card(folder: Path, name: str | None) -> DataFiles | None:
    """The files that the card of a folder names for a configuration; None if there is no card, or it names none.

    Raises:
        UserError: the card is broken, has several configurations of which none is chosen, or names files elsewhere.
    """
    path = folder / "README.md"
    configs = _configs(path)
    if not configs:
        return None
    config = _choose(configs, name, path)
    if found := sorted(_READING_OPTIONS & config.keys()):
        raise UserError(f"{path}: sets {found[0]!r}, which sealtune cannot do; name the files in the config instead")
    base = config.get("data_dir") or "."
    by_split = _patterns(config.get("data_files", "**" if "data_dir" in config else None), path)
    if by_split is None:
        return None
    return {split: [_inside(base, pattern, path) for pattern in patterns] for split, patterns in by_split.items()}


def _configs(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        block = _FRONT_MATTER.match(file.read(MAX_CHARACTERS))
    try:
        content = parse(block[1]) if block else None
    except InvalidYamlError as error:
        raise UserError(f"{path}, line {error.line + 1}: not valid YAML: {error}; name the files instead") from None
    configs = content.get("configs") if isinstance(content, dict) else None
    if configs is None:
        return []
    if not isinstance(configs, list) or not all(isinstance(config, dict) for config in configs):
        raise UserError(f"{path}: `configs` is not a list of configurations; name the files instead")
    return configs


def _choose(configs: list[dict[str, Any]], name: str | None, path: Path) -> dict[str, Any]:
    by_name = {str(config.get("config_name", "default")): config for config in configs}
    if name in by_name:
        return by_name[name]
    if len(by_name) == 1:
        return configs[-1]
    names = ", ".join(by_name)
    if name is not None:
        raise UserError(f"{path.parent}: no configuration {name!r}; it has {names}; choose one with `name`")
    defaults = [config for config in configs if config.get("default") is True]
    if not defaults and "default" not in by_name:
        raise UserError(f"{path.parent}: has several configurations ({names}); choose one with `name`")
    return defaults[0] if defaults else by_name["default"]


def _patterns(data_files: Any, path: Path) -> dict[str, list[str]] | None:
    """Patterns by split, from any of the forms that the hub accepts."""
    if data_files is None:
        return None
    if isinstance(data_files, dict) and not {"split", "path"} <= data_files.keys():
        entries = list(data_files.items())
    elif isinstance(data_files, str) or (isinstance(data_files, list) and all(isinstance(x, str) for x in data_files)):
        entries = [("train", data_files)]
    else:
        listed = data_files if isinstance(data_files, list) else [data_files]
        entries = [(x.get("split", "train"), x.get("path")) if isinstance(x, dict) else (None, x) for x in listed]
    by_split: dict[str, list[str]] = {}
    for split, patterns in entries:
        patterns = [patterns] if isinstance(patterns, str) else patterns
        are_texts = isinstance(patterns, list) and all(isinstance(pattern, str) for pattern in patterns)
        if not isinstance(split, str) or not are_texts:
            raise UserError(f"{path}: `data_files` is neither a path nor a list of paths, or of split and path")
        by_split.setdefault(split, []).extend(patterns)
    return by_split


def _inside(base: Any, pattern: str, path: Path) -> str:
    """The pattern, relative to the folder. Raises UserError if it leads elsewhere."""
    joined = PurePosixPath(str(base)) / pattern
    if (
        joined.is_absolute()
        or ".." in joined.parts
        or "://" in f"{base} {pattern}"
        or "\0" in pattern
        or len(str(joined)) > 1000
    ):
        raise UserError(f"{path}: names {str(joined)!r}, which is no file of this folder; name the files in the config")
    return str(joined)
