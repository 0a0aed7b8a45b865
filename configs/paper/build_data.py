"""Rebuild the data of the paper's two settings from public sets. Needs `datasets` and the hub, but not sealtune.

    python configs/paper/build_data.py redorca --output data/redorca        # downloads 1 GB, needs about 1 GB of memory
    python configs/paper/build_data.py openorca --output data/openorca     # streams all of OpenOrca: 7 GB

These are not the authors' own rows: the paper states how many rows of which set, not which ones. Rows are chosen by a
hash of their content and the seed, whatever their order on the hub. Of rows with the same question only the first is
used, so no question is in two files.

Source: Shen et al. (arXiv 2410.07471) and the scripts of github.com/hanshen95/SEAL.
"""

from __future__ import annotations

import argparse
import heapq
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Load = Callable[..., Iterable[Mapping[str, Any]]]

ROLES = {"system": "system", "human": "user", "gpt": "assistant"}
SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def redorca(
    folder: Path,
    load: Load,
    *,
    seed: int = 42,
    harmless: int = 89_600,
    unsafe: int = 22_400,
    safe: int = 112_000,
    prompts: int = 500,
) -> None:
    """Candidates (SlimOrca and red-team dialogues), a withheld safe set, and withheld prompts.

    Raises:
        SystemExit: a set has too few usable rows.
    """
    orca = load("Open-Orca/SlimOrca", split="train", streaming=True)
    taken = draw(map(from_sharegpt, orca), harmless + safe + prompts, seed, "SlimOrca")
    attacks = load("Anthropic/hh-rlhf", data_dir="red-team-attempts", split="train", streaming=True)
    red = draw(map(from_transcript, attacks), unsafe, seed, "red-team-attempts")
    mixed = label(taken[:harmless], "slimorca", 0) + label(red, "red-team-attempts", 1)
    write(folder / "candidates.jsonl", sorted(mixed, key=lambda row: digest(row["id"], seed)))
    write(folder / "safe.jsonl", label(taken[harmless : harmless + safe], "slimorca", 0))
    write(folder / "prompts.jsonl", map(as_prompt, label(taken[harmless + safe :], "slimorca", 0)))


def openorca(
    folder: Path, load: Load, *, seed: int = 42, candidates: int = 49_900, safe: int = 49_900, prompts: int = 500
) -> None:
    """The second setting: OpenOrca as candidates, Alpaca-cleaned as the safe set; no row has a label.

    Raises:
        SystemExit: a set has too few usable rows.
    """
    alpaca = load("yahma/alpaca-cleaned", split="train", streaming=True)
    write(folder / "safe.jsonl", label(draw(map(from_alpaca, alpaca), safe, seed, "alpaca-cleaned"), "alpaca-cleaned"))
    orca = load("Open-Orca/OpenOrca", split="train", streaming=True)
    taken = label(draw(map(from_openorca, orca), candidates + prompts, seed, "OpenOrca"), "openorca")
    write(folder / "candidates.jsonl", taken[:candidates])
    write(folder / "prompts.jsonl", map(as_prompt, taken[candidates:]))


# -- rows as messages --------------------------------------------------------------------------------------------------


def from_sharegpt(row: Mapping[str, Any]) -> list[Row]:
    """Messages of a SlimOrca row."""
    return messages((ROLES.get(turn["from"], ""), turn["value"]) for turn in row["conversations"])


def from_transcript(row: Mapping[str, Any]) -> list[Row]:
    """Messages of a red-team dialogue, up to its last answer."""
    _, *pieces = re.split(r"(?:\A|\n\n)(Human|Assistant):", row["transcript"])
    return messages((SPEAKERS[who], said) for who, said in zip(pieces[::2], pieces[1::2], strict=True))


def from_alpaca(row: Mapping[str, Any]) -> list[Row]:
    """Messages of an Alpaca row; the input follows the instruction after a blank line."""
    prompt = "\n\n".join(text for text in (row["instruction"], row.get("input") or "") if text.strip())
    return messages([("user", prompt), ("assistant", row["output"])])


def from_openorca(row: Mapping[str, Any]) -> list[Row]:
    """Messages of an OpenOrca row."""
    system = row.get("system_prompt") or ""
    return messages([("system", system), ("user", row["question"]), ("assistant", row["response"])])


def messages(turns: Iterable[tuple[str, str]]) -> list[Row]:
    """The turns up to the last answer; none if a question or an answer is blank, or if they do not alternate."""
    said = [{"role": role, "content": (text or "").strip()} for role, text in turns]
    said = [turn for turn in said if turn["role"] != "system" or turn["content"]]
    while said and not (said[-1]["role"] == "assistant" and said[-1]["content"]):
        said.pop()
    dialogue = said[1:] if said and said[0]["role"] == "system" else said
    in_turn = all(turn["role"] == ("user", "assistant")[i % 2] for i, turn in enumerate(dialogue))
    return said if in_turn and all(turn["content"] for turn in said) else []


# -- choosing and writing ----------------------------------------------------------------------------------------------


def draw(rows: Iterable[list[Row]], count: int, seed: int, name: str) -> list[list[Row]]:
    """``count`` rows, in an order decided by their content and the seed; reads the stream once, to its end."""
    chosen = heapq.nsmallest(count, _distinct(rows, seed), key=lambda pair: pair[0])
    if len(chosen) < count:
        raise SystemExit(f"{name}: {len(chosen):,} usable rows, {count:,} are needed")
    return [row for _, row in chosen]


def _distinct(rows: Iterable[list[Row]], seed: int) -> Iterator[tuple[bytes, list[Row]]]:
    seen: set[bytes] = set()
    for row in rows:
        question = digest(json.dumps(row[:-1]), seed)
        if row and question not in seen:
            seen.add(question)
            yield digest(json.dumps(row), seed), row


def digest(text: str, seed: int) -> bytes:
    """A hash of eight bytes of a text and the seed."""
    return blake2b(text.encode("utf-8", "replace"), digest_size=8, salt=str(seed).encode()).digest()


def label(rows: Sequence[list[Row]], source: str, unsafe: int | None = None) -> list[Row]:
    """Rows with id and origin; ``unsafe`` labels the origin, not every single row."""
    labels = {} if unsafe is None else {"unsafe": unsafe}
    return [
        {"id": f"{source}-{digest(json.dumps(row), 0).hex()}", "messages": row, "source": source, **labels}
        for row in rows
    ]


def as_prompt(row: Row) -> Row:
    """The system message and the first question as one text."""
    asked = [turn["content"] for turn in row["messages"][:2] if turn["role"] != "assistant"]
    return {"id": row["id"], "prompt": "\n\n".join(asked)}


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write one JSON object per line, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        count = sum(bool(file.write(json.dumps(row, ensure_ascii=False) + "\n")) for row in rows)
    part.replace(path)
    print(f"{path}: {count:,} rows")


def main() -> None:
    """Entry point."""
    import datasets

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mixture", choices=["redorca", "openorca"])
    parser.add_argument("--output", type=Path, required=True, help="folder for the files")
    parser.add_argument("--seed", type=int, default=42)
    chosen = parser.parse_args()
    {"redorca": redorca, "openorca": openorca}[chosen.mixture](chosen.output, datasets.load_dataset, seed=chosen.seed)


if __name__ == "__main__":
    main()
