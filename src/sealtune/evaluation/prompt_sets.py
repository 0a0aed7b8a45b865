"""Public prompt sets by name. ``prompt_sets.yaml`` lists them; docs/prompt_sets.md documents them."""

from __future__ import annotations

import csv
import re
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from sealtune.core.config import DatasetConfig, PromptsConfig
from sealtune.core.errors import UserError
from sealtune.core.files import cache_folder
from sealtune.data.sources import expand, read_rows

Kind = Literal["harmful", "harmless"]
Row = Mapping[str, Any]
TIMEOUT = 60.0
"""Seconds without data from the server."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a set; the keys are explained in ``prompt_sets.yaml``."""

    path: str
    split: str = "train"
    kind: Kind | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PromptSet:
    """One public set; the keys are explained in ``prompt_sets.yaml``."""

    parts: tuple[Part, ...]
    column: str
    rows: int
    licence: str
    source: str
    identity: str = "id"
    gated: bool = False
    headerless: bool = False
    max_prompts: int | None = None


@cache
def prompt_sets() -> Mapping[str, PromptSet]:
    """All public sets by name."""
    import yaml

    table = yaml.safe_load(files("sealtune.evaluation").joinpath("prompt_sets.yaml").read_text(encoding="utf-8"))
    return {
        name: PromptSet(**entry | {"parts": tuple(Part(**part) for part in entry["parts"])})
        for name, entry in table.items()
    }


def read(config: PromptsConfig) -> Iterator[tuple[str, Row, Kind]]:
    """Place, row and kind of each row of the set, from the file at ``path`` or from where the authors publish it.

    Raises:
        UserError: the set cannot be fetched or read, or it is unknown which rows of a file are harmful.
    """
    name = str(config.set)
    chosen = prompt_sets()[name]
    if config.path is not None:
        kinds = {part.kind for part in chosen.parts}
        kind = config.kind or (kinds.pop() if len(kinds) == 1 else None)
        for where, row in _read_file(config.path, chosen):
            yield where, row, _kind_of(row, kind, name)
        return
    for part in chosen.parts:
        if part.kind is None or config.kind in (None, part.kind):
            for number, row in enumerate(_fetch(name, part), 1):
                yield f"{name} ({part.split}), row {number}", row, _kind_of(row, part.kind, name)


def _kind_of(row: Row, kind: Kind | None, name: str) -> Kind:
    if name == "xstest":
        return _xstest_kind(row)
    if kind is None:
        raise UserError(f"{name}: the rows do not contain whether they are harmful; set kind of the file")
    return kind


def _read_file(path: str, chosen: PromptSet) -> Iterator[tuple[str, Row]]:
    if not chosen.headerless or not path.lower().endswith(".csv"):
        yield from read_rows(DatasetConfig(path=path))
        return
    try:  # as the authors publish it: no header, one prompt per line
        with expand(path).open(encoding="utf-8-sig", newline="") as lines:
            for number, fields in enumerate(csv.reader(lines), 1):
                if fields and fields != [chosen.column]:
                    yield f"{path}, line {number}", {chosen.column: fields[0]}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def _fetch(name: str, part: Part) -> Iterator[Row]:
    import datasets

    chosen = prompt_sets()[name]
    try:
        yield from datasets.load_dataset(part.path, split=part.split, **_with_local_copy(part.options))
    except Exception as error:  # the hub, the network or a loader may raise anything; the user gets one line
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        access = f"request access at {chosen.source}, then run `hf auth login`; " if chosen.gated else ""
        raise UserError(
            f"{name}: cannot be fetched ({reason.rstrip('.')}); {access}or give a copy from {chosen.source} as "
            f"{{set: {name}, path: FILE}}, with the prompts in the column {chosen.column!r}"
        ) from None


def _with_local_copy(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with a file on the web replaced by a copy in the user's cache.

    Without further packages ``datasets`` reads files only from the hub.
    """
    url = options.get("data_files")
    if not isinstance(url, str) or not url.startswith("https://"):
        return dict(options)
    folder = cache_folder() / "prompt-sets"
    copy = folder / url.rsplit("/", 1)[1]
    if not copy.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # the file appears atomically
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
                (part := Path(scratch) / copy.name).write_bytes(answer.read())
            part.replace(copy)
    return {**options, "data_files": str(copy)}


def _xstest_kind(row: Row) -> Kind:
    label = str(row.get("label", "")).strip().lower()
    if label not in ("safe", "unsafe"):
        raise UserError(f"xstest: a row has {row.get('label')!r} in the column 'label'; it must be safe or unsafe")
    return "harmful" if label == "unsafe" else "harmless"


def _harmbench_text(row: Row) -> Any:
    """None for behaviours that reproduce copyrighted texts: the answer's tone does not show whether it is harmful."""
    if row.get("FunctionalCategory") == "copyright":
        return None
    context = row.get("ContextString")
    return f"{context}\n\n---\n\n{row['Behavior']}" if isinstance(context, str) and context.strip() else row["Behavior"]


def _hh_rlhf_text(row: Row) -> Any:
    """The first human turn."""
    found = re.match(r"\s*Human:(.*?)(?:\n\nAssistant:|\Z)", str(row["chosen"]), re.DOTALL)
    return found[1].strip() if found else ""


def _slimorca_text(row: Row) -> Any:
    """The system message, if there is one, and the first question, as one text."""
    turns = row["conversations"] if isinstance(row["conversations"], list) else []
    first = {turn.get("from"): turn.get("value") for turn in reversed(turns) if isinstance(turn, Mapping)}
    return "\n\n".join(text for who in ("system", "human") if isinstance(text := first.get(who), str) and text.strip())


TEXTS: Mapping[str, Callable[[Row], Any]] = {
    "harmbench": _harmbench_text,
    "hh-rlhf": _hh_rlhf_text,
    "slimorca": _slimorca_text,
}
"""Sets whose prompt is not simply the text in its column. None: the row is not a prompt."""
