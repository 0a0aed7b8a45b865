"""Evaluation prompts from files and public sets, with ids that are unique over all sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sealtune.core.config import DatasetConfig, PromptsConfig
from sealtune.core.errors import UserError
from sealtune.core.sanitize import is_valid_utf8
from sealtune.core.types import Drop, Prompt
from sealtune.data.encode import encode_prompt
from sealtune.data.sources import read_rows
from sealtune.evaluation.prompt_sets import TEXTS, Kind, prompt_sets, read

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EXAMPLES = 3
"""Ids in a notice."""


class Prompts(NamedTuple):
    """The prompts to ask, in order, and those that cannot be asked."""

    asked: list[Prompt]
    drops: list[Drop]


def load_prompts(configs: Sequence[PromptsConfig]) -> Prompts:
    """The prompts of every set, in order; empty ones are dropped.

    A row's id is its own ``id``, or ``<set>-<n>`` with n counted from 1; ids of a public set start with its name.
    Repeated ids get the suffix ``-2``, ``-3``, ...

    Raises:
        UserError: a file or set cannot be read, has no rows or only empty prompts; a row lacks the prompt column, or
            its prompt is not text.
    """
    seen: set[str] = set()
    found = Prompts([], [])
    for config in configs:
        before = len(found.asked), len(found.drops)
        for row in _load_set(config):
            if isinstance(row, Drop):
                found.drops.append(row)
            else:
                found.asked.append(_make_unique(row, seen))
        if len(found.asked) == before[0]:
            raise UserError(f"{config.path or config.set}: {_no_prompts(config, found.drops[before[1] :])}")
    return found


def fit(
    found: Prompts,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    max_new_tokens: int,
    context: int | None = None,
) -> Prompts:
    """The prompts that have at most ``max_length`` tokens and, with the new tokens, fit into the model's context.

    Longer prompts are dropped, not truncated: a prompt without its end is another question.

    Args:
        context: The largest number of tokens that the model allows; None without a limit.

    Raises:
        UserError: the chat template rejects a prompt, or none is left.
    """
    longest = tokenizer.model_max_length  # a huge number if the tokenizer has no limit
    room = min(longest, context or longest) - max_new_tokens
    fitting = Prompts([], list(found.drops))
    for prompt in found.asked:
        length = len(encode_prompt(tokenizer, prompt.prompt, opened=True))
        if length <= min(max_length, room):
            fitting.asked.append(prompt)
        else:
            remedy = f"evaluate.max_prompt_length={length} would admit it"
            if length > room:
                remedy = f"with {max_new_tokens} new tokens more than the model's context of {room + max_new_tokens:,}"
            detail = f"{length:,} tokens; {remedy}"
            fitting.drops.append(Drop(prompt.id, prompt.set, "too_long", detail, {"prompt": prompt.prompt}))
    if found.asked and not fitting.asked:
        raise UserError(f"evaluate.prompts: all {len(found.asked)} are too long; the last: {fitting.drops[-1].detail}")
    return fitting


def notices(drops: Sequence[Drop]) -> list[str]:
    """One line per set and reason: how many prompts are not asked, and the first ones."""
    counts = Counter((drop.source, drop.reason) for drop in drops)
    lines = []
    for (source, reason), count in counts.items():
        own = [drop for drop in drops if (drop.source, drop.reason) == (source, reason)]
        ids = ", ".join(drop.id for drop in own[:EXAMPLES]) + (", ..." if count > EXAMPLES else "")
        lines.append(f"prompts: {source}: {count:,} dropped, {reason} ({ids}: {own[0].detail})")
    return lines


def _load_set(config: PromptsConfig) -> Iterator[Prompt | Drop]:
    """Prompts and drops of one set; ``limit`` counts the prompts of each kind."""
    name = config.name or config.set or Path(str(config.path)).stem
    known = prompt_sets().get(config.set or "")
    limit = config.limit or (known.max_prompts if known else None)
    left = dict.fromkeys(_kinds(config), limit)
    for number, (where, row, kind) in enumerate(_rows(config), 1):
        if kind not in left or left[kind] == 0:
            continue
        text = _prompt_text(where, row, config)
        if text is None:
            continue
        identity = _identity(row, number, name, config)
        if not text.strip():
            yield Drop(identity, name, "empty", f"{where}: an empty prompt", dict(row))
            continue
        yield Prompt(identity, text, name, kind)
        if limit:
            left[kind] = (left[kind] or 0) - 1
            if not any(left.values()):
                return


def _kinds(config: PromptsConfig) -> set[Kind]:
    """The kinds of prompts that are requested and that the set can contain."""
    if config.kind is not None:
        return {config.kind}
    kinds = {part.kind for part in prompt_sets()[str(config.set)].parts}
    return {kind for kind in kinds if kind} if all(kinds) else {"harmful", "harmless"}


def _identity(row: Mapping[str, Any], number: int, name: str, config: PromptsConfig) -> str:
    known = prompt_sets().get(config.set or "")
    own = row.get(known.identity if known else "id")
    if own is None or own == "":
        return f"{name}-{number}"
    return f"{name}-{own}" if known else str(own)


def _rows(config: PromptsConfig) -> Iterator[tuple[str, Mapping[str, Any], Kind]]:
    if config.set is not None:
        yield from read(config)
        return
    assert config.kind is not None and config.path is not None  # required by the config without a set
    for where, row in read_rows(DatasetConfig(path=config.path)):
        yield where, row, config.kind


def _prompt_text(where: str, row: Mapping[str, Any], config: PromptsConfig) -> str | None:
    """The prompt, empty if it is missing; None for a row of a set that is not a prompt."""
    known = prompt_sets().get(config.set or "")
    column = config.column or (known.column if known else "prompt")
    if column not in row:
        found = ", ".join(map(str, row)) or "none"
        raise UserError(f"{where}: no column {column!r}; columns found: {found}; set `column` of the prompts")
    special = TEXTS.get(config.set or "")
    text = special(row) if special and config.column is None else row[column]
    if text is None:
        return None if special and row[column] is not None else ""
    if not isinstance(text, str):
        raise UserError(
            f"{where}: the prompt in column {column!r} is a {type(text).__name__}; every prompt must be text"
        )
    if not is_valid_utf8(text):
        raise UserError(f"{where}: the prompt in column {column!r} contains a lone surrogate; correct the text")
    return text


def _no_prompts(config: PromptsConfig, drops: Sequence[Drop]) -> str:
    if drops:
        return f"no prompts; all {len(drops)} are empty, the first: {drops[0].detail}"
    return f"no {config.kind} prompts" if config.kind else "no prompts"


def _make_unique(prompt: Prompt, seen: set[str]) -> Prompt:
    """The prompt with an id that is not in ``seen``; the id is added to ``seen``."""
    identity, copy = prompt.id, 1
    while identity in seen:
        copy += 1
        identity = f"{prompt.id}-{copy}"
    seen.add(identity)
    return Prompt(identity, prompt.prompt, prompt.set, prompt.kind)
