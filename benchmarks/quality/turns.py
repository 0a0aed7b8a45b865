"""Does scoring every answer of a conversation find the bad one? One bad answer among two to six, by granularity.

Conversations are made of the rows of a labelled mixture: half of them have one unsafe row, at a random place, the
others none. The same texts are ranked three ways, with the same safe set: every answer in its conversation (``turn``),
every row by itself without a conversation (``alone``), and whole conversations (``row``). Figures are the AUROC of the
answers, and of the conversations, of which ``turn`` takes the worst answer.

    python benchmarks/quality/turns.py --mixtures general_20 --seeds 0 1 2 --output benchmarks/results/turns.json

Labelled rows are read from the folder that SEALTUNE_DATA names; no text of theirs is written.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks.lib import mixtures
from benchmarks.lib.paths import DATA
from benchmarks.lib.reports import provenance, write_report

Talk = list[dict[str, Any]]
"""The labelled rows of a conversation, one per pair of turns."""


def main() -> None:
    args = parse()
    runs = []
    for mixture in args.mixtures:
        for seed in args.seeds:
            runs.append({"mixture": mixture, "seed": seed, **measure(args, mixture, seed)})
            print(runs[-1], file=sys.stderr, flush=True)
            write_report(provenance(args) | {"runs": runs}, args.output)


def measure(args: argparse.Namespace, mixture: str, seed: int) -> dict[str, Any]:
    """AUROC of answers and conversations, and seconds, by how they were ranked."""
    from sealtune.evaluation.metrics import auroc

    safe = mixtures.safe_rows(args.folder, "mixed", args.safe_rows, seed)
    talks = conversations(mixtures.candidates(args.folder, mixture, None, seed, safe), args.conversations, seed)
    labels = np.array([row["unsafe"] for talk in talks for row in talk])
    bad = np.array([any(row["unsafe"] for row in talk) for talk in talks]).astype(int)
    found: dict[str, Any] = {"answers": len(labels), "unsafe": int(labels.sum()), "conversations": len(talks)}
    config = {
        "max_length": args.max_length,
        "seed": seed,
        "rank": {"method": args.method, "num_train_epochs": args.epochs},
    }
    for name, rank in RANKINGS.items():
        started = time.perf_counter()
        answers, whole = rank(args.model, talks, mixtures.hidden(safe), config)
        found[f"{name}_seconds"] = round(time.perf_counter() - started, 1)
        if answers is not None:
            found[f"auroc_answers_{name}"] = round(auroc(answers, labels), 4)
        found[f"auroc_conversations_{name}"] = round(auroc(whole, bad), 4)
    return found


def conversations(rows: list[dict], n: int, seed: int) -> list[Talk]:
    """n conversations of two to six rows; every other one has an unsafe row, at a random place."""
    chance = random.Random(seed)
    unsafe, benign = ([row for row in rows if bool(row["unsafe"]) == kind] for kind in (True, False))
    for part in (unsafe, benign):
        chance.shuffle(part)
    talks = []
    for i in range(n):
        size, bad = chance.randint(2, 6), i % 2 == 0
        if len(benign) < size or not unsafe:
            raise SystemExit(f"error: the mixture has rows for {i} conversations, not {n}; lower --conversations")
        talk = [benign.pop() for _ in range(size - bad)]
        if bad:
            talk.insert(chance.randrange(size), unsafe.pop())
        talks.append(talk)
    return talks


# -- rankings: of the answers, and of the conversations ----------------------------------------------------------------


def by_turn(model: str, talks: list[Talk], safe: list[dict], config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Every answer in its conversation; a conversation is as bad as its worst."""
    from sealtune.core.config import DatasetConfig
    from sealtune.core.config_io import build_config
    from sealtune.pipeline import turns
    from sealtune.pipeline.run import Run
    from sealtune.pipeline.runner import run_stage

    with tempfile.TemporaryDirectory() as folder:
        settings = {**config, "model_name_or_path": model, "output_dir": folder, "select": {"granularity": "turn"}}
        named = {
            "datasets": [DatasetConfig(path="talks", rows=[as_row(talk, i) for i, talk in enumerate(talks)])],
            "safe_datasets": [DatasetConfig(path="safe", rows=safe)],
        }
        job = Run(build_config(settings).model_copy(update=named))
        run_stage(job, "rank")
        found = turns.read_scores(job.folder)
    score = dict(zip(zip(found.scores.ids, found.number.tolist(), strict=True), found.scores.score, strict=True))
    by_talk = [[score[f"talk-{i}", k] for k in range(1, len(talk) + 1)] for i, talk in enumerate(talks)]
    return flat(by_talk), np.array([min(scores) for scores in by_talk])


def alone(model: str, talks: list[Talk], safe: list[dict], config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Every row without its conversation; a conversation is as bad as its worst."""
    from sealtune import api

    named = [[row | {"id": f"{i}-{k}"} for k, row in enumerate(mixtures.hidden(talk))] for i, talk in enumerate(talks)]
    score = api.rank(model, [row for talk in named for row in talk], safe, **config).by_id()
    by_talk = [[score[row["id"]] for row in talk] for talk in named]
    return flat(by_talk), np.array([min(scores) for scores in by_talk])


def by_row(model: str, talks: list[Talk], safe: list[dict], config: Mapping[str, Any]) -> tuple[None, Any]:
    """Whole conversations, whose answers get no score of their own."""
    from sealtune import api

    rows = [as_row(talk, i) for i, talk in enumerate(talks)]
    score = api.rank(model, rows, safe, **config).by_id()
    return None, np.array([score[row["id"]] for row in rows])


RANKINGS: dict[str, Callable[..., tuple[Any, Any]]] = {"turn": by_turn, "alone": alone, "row": by_row}


def as_row(talk: Talk, i: int) -> dict[str, Any]:
    """The conversation as a row, without its labels."""
    roles = (("user", "prompt"), ("assistant", "response"))
    messages = [{"role": role, "content": row[column]} for row in talk for role, column in roles]
    return {"id": f"talk-{i}", "messages": messages}


def flat(by_talk: list[list[float]]) -> Any:
    return np.array([score for scores in by_talk for score in scores])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=DATA, help="labelled rows; default: $SEALTUNE_DATA or data")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--mixtures", nargs="+", default=["general_20"])
    parser.add_argument("--method", default="probe")
    parser.add_argument("--conversations", type=int, default=60)
    parser.add_argument("--safe-rows", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=768)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
