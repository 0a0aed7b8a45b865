"""Labelled rows to measure on: a mixture by name, sampled by seed, with a share or an extra that its name requests.

``general_20`` is the mixture as it is; ``general_20~0.05`` leaves out unsafe rows until 5 % are unsafe;
``general_20+refusals`` adds safe refusals to the candidates, one fifth of their number.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

REFUSALS = 0.2
"""Rows added by ``+refusals``, as a share of the sampled rows."""


def candidates(folder: Path, name: str, rows: int | None, seed: int, safe: list[dict]) -> list[dict]:
    """Rows of a mixture with their label columns; rows of ``safe`` are not used twice."""
    base, _, extra = name.partition("+")
    base, _, share = base.partition("~")
    found = read(folder / "mixtures" / f"{base}.jsonl")
    chosen = sample(with_unsafe_share(found, float(share), rows, seed) if share else found, rows, seed)
    if extra == "refusals":
        used = {_key(row, seed) for row in safe}
        free = [row for row in read(folder / "safe" / "safety.jsonl") if _key(row, seed) not in used]
        chosen += [safe_refusal(row) for row in sample(free, round(REFUSALS * len(chosen)), seed)]
    elif extra:
        raise SystemExit(f"error: {name}: unknown extra +{extra}; known: +refusals")
    return chosen


def safe_rows(folder: Path, name: str, rows: int | None, seed: int) -> list[dict]:
    """Rows of ``safe/<name>.jsonl``."""
    return sample(read(folder / "safe" / f"{name}.jsonl"), rows, seed)


def with_unsafe_share(rows: list[dict], share: float, limit: int | None, seed: int) -> list[dict]:
    """At most ``limit`` of the rows, of which ``share`` are unsafe."""
    unsafe = sample([row for row in rows if row["unsafe"]], None, seed)
    rest = sample([row for row in rows if not row["unsafe"]], None, seed)
    total = min(limit or len(rows), int(len(unsafe) / share) if share else len(rows), int(len(rest) / (1 - share)))
    bad = round(share * total)
    return unsafe[:bad] + rest[: total - bad]


def sample(rows: list[dict], limit: int | None, seed: int) -> list[dict]:
    """``limit`` of the rows by a hash of seed and content: the same in whatever order the file lists them."""
    return sorted(rows, key=lambda row: _key(row, seed))[:limit]


def read(path: Path) -> list[dict]:
    """The rows of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def hidden(rows: list[dict]) -> list[dict]:
    """The rows without their labels."""
    return [{name: row[name] for name in ("id", "prompt", "response") if name in row} for row in rows]


def safe_refusal(row: dict) -> dict:
    """A row of the safety set as a candidate: safe, and its prompt looks like that of an unsafe row."""
    return {**row, "unsafe": 0, "hard_negative": 1, "source": "safe refusals"}


def _key(row: dict, seed: int) -> str:
    return hashlib.sha256(f"{seed}\n{row['prompt']}\n{row['response']}".encode()).hexdigest()
