"""Public sets of prompts by name: where each is, which column holds the prompt, which rows are harmful.

Nothing of them is shipped; ``read`` asks the place where the authors publish them. docs/prompt_sets.md has the table.
"""

from __future__ import annotations

import csv
import re
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sealtune.core.config import DatasetConfig, PromptsConfig
from sealtune.core.errors import UserError
from sealtune.core.files import cache_folder
from sealtune.data.text_files import PlacedRow, read_rows

Kind = Literal["harmful", "harmless"]
Row = Mapping[str, Any]
GITHUB = "https://raw.githubusercontent.com"
TIMEOUT = 60.0
"""Seconds without a sign of the server."""


@dataclass(frozen=True, slots=True)
class Part:
    """What ``datasets.load_dataset(path, split=split, **options)`` gives; ``kind``: what all its rows are.

    A file on the web is fetched first: ``datasets`` reads only the hub without further packages.
    """

    path: str
    split: str = "train"
    kind: Kind | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PromptSet:
    """One public set.

    ``text`` makes the prompt of a row (default: its ``column`` as it stands; None: the row is not a prompt), ``kind``
    tells what a row is where its part does not. ``rows``: how many prompts there are. ``most`` is a limit for sets far
    too large to be asked whole.
    """

    parts: tuple[Part, ...]
    column: str
    rows: int
    licence: str
    source: str
    text: Callable[[Row], Any] | None = None
    kind: Callable[[Row], Kind] | None = None
    identity: str = "id"
    gated: bool = False
    headerless: bool = False
    most: int | None = None


def _harmbench_text(row: Row) -> Any:
    """Behaviours that copy protected texts are left out: whether they are harmful is not in the answer's tone."""
    if row.get("FunctionalCategory") == "copyright":
        return None
    context = row.get("ContextString")
    return f"{context}\n\n---\n\n{row['Behavior']}" if isinstance(context, str) and context.strip() else row["Behavior"]


def _first_human_turn(row: Row) -> Any:
    found = re.match(r"\s*Human:(.*?)(?:\n\nAssistant:|\Z)", str(row["chosen"]), re.DOTALL)
    return found[1].strip() if found else ""


def _first_question(row: Row) -> Any:
    """The system message, where there is one, and the first question: a prompt is one text."""
    turns = row["conversations"] if isinstance(row["conversations"], list) else []
    said = {turn.get("from"): turn.get("value") for turn in reversed(turns) if isinstance(turn, Mapping)}
    return "\n\n".join(text for who in ("system", "human") if isinstance(text := said.get(who), str) and text.strip())


def _xstest_kind(row: Row) -> Kind:
    label = str(row.get("label", "")).strip().lower()
    if label not in ("safe", "unsafe"):
        raise UserError(f"xstest: a row has {row.get('label')!r} in the column 'label'; safe or unsafe is needed")
    return "harmful" if label == "unsafe" else "harmless"


def _csv(url: str, kind: Kind | None = None) -> tuple[Part, ...]:
    return (Part("csv", kind=kind, options={"data_files": url}),)


PROMPT_SETS: dict[str, PromptSet] = {
    "advbench": PromptSet(
        _csv(f"{GITHUB}/llm-attacks/llm-attacks/main/data/advbench/harmful_behaviors.csv", "harmful"),
        column="goal",
        rows=520,
        licence="MIT",
        source="https://github.com/llm-attacks/llm-attacks",
    ),
    "alpaca_eval": PromptSet(
        # The data set's own loading script is no longer run by `datasets`; its file is read as it lies there.
        (
            Part(
                "json", kind="harmless", options={"data_files": "hf://datasets/tatsu-lab/alpaca_eval/alpaca_eval.json"}
            ),
        ),
        column="instruction",
        rows=805,
        licence="CC BY-NC 4.0",
        source="https://huggingface.co/datasets/tatsu-lab/alpaca_eval",
    ),
    "do-not-answer": PromptSet(
        (Part("LibrAI/do-not-answer", kind="harmful"),),
        column="question",
        rows=939,
        licence="CC BY-NC-SA 4.0",
        source="https://huggingface.co/datasets/LibrAI/do-not-answer",
    ),
    "harmbench": PromptSet(
        _csv(
            f"{GITHUB}/centerforaisafety/HarmBench/main/data/behavior_datasets/harmbench_behaviors_text_all.csv",
            "harmful",
        ),
        column="Behavior",
        rows=300,
        licence="MIT",
        source="https://github.com/centerforaisafety/HarmBench",
        text=_harmbench_text,
        identity="BehaviorID",
    ),
    "hex-phi": PromptSet(
        (
            Part(
                "LLM-Tuning-Safety/HEx-PHI",
                kind="harmful",
                options={"data_files": {"train": "category_*.csv"}, "header": None, "names": ["prompt"]},
            ),
        ),
        column="prompt",
        rows=300,
        licence="HEx-PHI Dataset License Agreement",
        source="https://huggingface.co/datasets/LLM-Tuning-Safety/HEx-PHI",
        gated=True,
        headerless=True,
    ),
    "hh-rlhf": PromptSet(
        (
            Part("Anthropic/hh-rlhf", "test", "harmful", {"data_dir": "harmless-base"}),
            Part("Anthropic/hh-rlhf", "test", "harmless", {"data_dir": "helpful-base"}),
        ),
        column="chosen",
        rows=4666,
        licence="MIT",
        source="https://huggingface.co/datasets/Anthropic/hh-rlhf",
        text=_first_human_turn,
    ),
    "jailbreakbench": PromptSet(
        (
            Part("JailbreakBench/JBB-Behaviors", "harmful", "harmful", {"name": "behaviors"}),
            Part("JailbreakBench/JBB-Behaviors", "benign", "harmless", {"name": "behaviors"}),
        ),
        column="Goal",
        rows=200,
        licence="MIT",
        source="https://huggingface.co/datasets/JailbreakBench/JBB-Behaviors",
    ),
    "slimorca": PromptSet(
        (Part("Open-Orca/SlimOrca", kind="harmless", options={"streaming": True}),),
        column="conversations",
        rows=517_982,
        licence="MIT",
        source="https://huggingface.co/datasets/Open-Orca/SlimOrca",
        text=_first_question,
        most=1000,
    ),
    "strongreject": PromptSet(
        _csv(f"{GITHUB}/alexandrasouly/strongreject/main/strongreject_dataset/strongreject_dataset.csv", "harmful"),
        column="forbidden_prompt",
        rows=313,
        licence="MIT",
        source="https://github.com/alexandrasouly/strongreject",
    ),
    "xstest": PromptSet(
        _csv(f"{GITHUB}/paul-rottger/xstest/main/xstest_prompts.csv"),
        column="prompt",
        rows=450,
        licence="CC BY 4.0",
        source="https://github.com/paul-rottger/xstest",
        kind=_xstest_kind,
    ),
}


def read(config: PromptsConfig) -> Iterator[tuple[str, Row, Kind]]:
    """Place, row and kind of each row of the set, from the file at ``path`` or from where the authors publish it.

    Raises:
        UserError: the set cannot be reached or read, or a file does not tell which rows are harmful.
    """
    name = str(config.set)
    chosen = PROMPT_SETS[name]
    if config.path is not None:
        kinds = {part.kind for part in chosen.parts}
        whole = config.kind or (kinds.pop() if len(kinds) == 1 else None)
        for where, line in _read_file(config.path, chosen):
            yield where, line, _kind_of(line, chosen, whole, name)
        return
    for part in chosen.parts:
        if part.kind is None or config.kind in (None, part.kind):
            for number, row in enumerate(_fetch(name, part), 1):
                yield f"{name} ({part.split}), row {number}", row, _kind_of(row, chosen, part.kind, name)


def _kind_of(row: Row, chosen: PromptSet, whole: Kind | None, name: str) -> Kind:
    if chosen.kind is not None:
        return chosen.kind(row)
    if whole is None:
        raise UserError(f"{name}: its rows do not tell which of them are harmful; set kind of the file")
    return whole


def _read_file(path: str, chosen: PromptSet) -> Iterator[PlacedRow]:
    if not chosen.headerless or not path.lower().endswith(".csv"):
        yield from read_rows(DatasetConfig(path=path))
        return
    try:  # as the authors publish it: no header, one prompt a line
        with Path(path).open(encoding="utf-8-sig", newline="") as lines:
            for number, fields in enumerate(csv.reader(lines), 1):
                if fields and fields != [chosen.column]:
                    yield f"{path}, line {number}", {chosen.column: fields[0]}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def _fetch(name: str, part: Part) -> Iterator[Row]:
    import datasets

    chosen = PROMPT_SETS[name]
    try:
        yield from datasets.load_dataset(part.path, split=part.split, **_at_hand(part.options))
    except Exception as error:  # whatever the hub, the network or a loader raises, the user reads one line
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        terms = f"it is given out on request: ask at {chosen.source}, then `hf auth login`; " if chosen.gated else ""
        raise UserError(
            f"{name}: cannot be fetched ({reason.rstrip('.')}); {terms}or give a copy from {chosen.source} as "
            f"{{set: {name}, path: FILE}}, with the prompts in the column {chosen.column!r}"
        ) from None


def _at_hand(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with a copy in the user's cache in place of a file on the web; fetched once."""
    url = options.get("data_files")
    if not isinstance(url, str) or not url.startswith("https://"):
        return dict(options)
    folder = cache_folder() / "prompt-sets"
    copy = folder / url.rsplit("/", 1)[1]
    if not copy.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # a file appears whole or not at all
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
                (part := Path(scratch) / copy.name).write_bytes(answer.read())
            part.replace(copy)
    return {**options, "data_files": str(copy)}
