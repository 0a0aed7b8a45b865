"""Evaluation prompts from files, each with an id that is unique over all sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sealtune.config import DatasetConfig, PromptsConfig
from sealtune.data.files import read_rows
from sealtune.records import Prompt, UserError


def load_prompts(configs: Sequence[PromptsConfig]) -> list[Prompt]:
    """The prompts of every set, in order; a row's id is its own ``id``, else ``<set>-<n>`` with n counted from 1.

    An id seen before gets the suffix ``-2``, ``-3``, ...

    Raises:
        UserError: a file that cannot be read or has no rows, a row without the prompt column or with an empty prompt.
    """
    seen: set[str] = set()
    return [_make_unique(prompt, seen) for config in configs for prompt in _load_set(config)]


def _load_set(config: PromptsConfig) -> Iterator[Prompt]:
    name = config.name or Path(config.path).stem
    number = 0
    for number, (where, row) in enumerate(islice(read_rows(DatasetConfig(path=config.path)), config.limit), 1):
        own = row.get("id")
        identity = f"{name}-{number}" if own is None or own == "" else str(own)
        yield Prompt(identity, _prompt_text(where, row, config.column), name, config.kind)
    if not number:
        raise UserError(f"{config.path}: no prompts; give a file with at least one row")


def _prompt_text(where: str, row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        found = ", ".join(map(str, row)) or "none"
        raise UserError(f"{where}: no column {column!r}; columns found: {found}; set `column` of the prompts")
    text = row[column]
    if not isinstance(text, str) or not text.strip():
        fault = "is empty" if text is None or isinstance(text, str) else f"is a {type(text).__name__}"
        raise UserError(f"{where}: the prompt in column {column!r} {fault}; every prompt must be text")
    return text


def _make_unique(prompt: Prompt, seen: set[str]) -> Prompt:
    """The prompt under an id not in ``seen``, which is added to it."""
    identity, copy = prompt.id, 1
    while identity in seen:
        copy += 1
        identity = f"{prompt.id}-{copy}"
    seen.add(identity)
    return Prompt(identity, prompt.prompt, prompt.set, prompt.kind)
