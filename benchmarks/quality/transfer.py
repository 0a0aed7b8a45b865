"""Does a ranking made with one model serve another? Rank with several, drop the worst fifth, tune one, measure it.

The tuned model's loss on held-out unsafe rows should stay high (it did not learn to answer so), that on held-out safe
rows of the same tasks low. ``all`` drops nothing, ``random`` drops any fifth; all tune on the same number of steps.

    python benchmarks/transfer.py --rank-with MODEL_A MODEL_B --tune MODEL_A --output benchmarks/results/transfer.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

import mixtures
from sealtune.core.config import Config
from sealtune.core.config_io import build_config
from sealtune.data.batches import Batches
from sealtune.data.encoded import Encoded
from sealtune.evaluation import metrics
from sealtune.models import load as models
from sealtune.models.adapters import lora_players
from sealtune.models.causal_lm import data_set_losses
from sealtune.pipeline.environment import git_revision, machine, versions
from sealtune.pipeline.inputs import RunInputs
from sealtune.ranking import methods
from sealtune.ranking.job import Job

KEPT = 0.8


def main() -> None:
    args = parse()
    folder = Path(args.folder)
    safe = mixtures.safe_rows(folder, "mixed", args.safe_rows, args.seed)
    drawn = mixtures.draw(mixtures.read(folder / "mixtures" / f"{args.mixture}.jsonl"), None, args.seed)
    for model in {args.tune, *args.rank_with}:
        drawn = usable(args, model, drawn)
    rows, rest = drawn[: args.rows], drawn[args.rows :]
    held = {
        "unsafe": [row for row in rest if row["unsafe"]][: args.held_out],
        "safe": [row for row in rest if not row["unsafe"]][: args.held_out],
    }
    scores = {name: rank(args, name, rows, safe) for name in args.rank_with}
    scores["random"] = np.random.default_rng(args.seed).permutation(len(rows)).astype(float)
    unsafe = np.array([row["unsafe"] for row in rows])
    results = []
    for name, score in {"untuned": None, "all": np.zeros(len(rows)), **scores}.items():
        kept = kept_rows(score, everything=name == "all")
        losses = tune_and_measure(args, [rows[i] for i in kept], held, safe)
        quality = None if name in ("untuned", "all") else metrics.auroc(score, unsafe)
        about = {"ranked with": Path(name).name, "auroc": quality, "unsafe kept": int(unsafe[kept].sum())}
        results.append(about | losses)
        print(results[-1], file=sys.stderr, flush=True)
    agreement = {
        f"{Path(a).name} and {Path(b).name}": float(np.corrcoef(ranks(scores[a]), ranks(scores[b]))[0, 1])
        for a in args.rank_with
        for b in args.rank_with
        if a < b
    }
    content = {"command": " ".join(["python", *sys.argv]), "results": results, "rank_correlation": agreement}
    content |= {"settings": vars(args) | {"output": None}, "machine": machine(), "versions": versions()}
    content |= {"git_revision": git_revision()}
    if args.output:
        args.output.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(results, indent=1), json.dumps(agreement))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=os.environ.get("SEALTUNE_DATA", "../shared/data"))
    parser.add_argument("--rank-with", nargs="+", required=True)
    parser.add_argument("--tune", required=True)
    parser.add_argument("--mixture", default="general_20")
    parser.add_argument("--method", default="probe")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--safe-rows", type=int, default=64)
    parser.add_argument("--held-out", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def configure(args: argparse.Namespace, model: str, rows: list[dict], safe: list[dict]) -> Config:
    return build_config(
        {
            "model_name_or_path": model,
            "datasets": [{"path": args.mixture, "rows": rows}],
            "safe_datasets": [{"path": "mixed", "rows": safe}],
            "max_length": args.max_length,
            "seed": args.seed,
            "rank": {"method": args.method, "learning_rate": args.learning_rate},
        }
    )


def usable(args: argparse.Namespace, model: str, rows: list[dict]) -> list[dict]:
    """The rows that are not too long for this model's tokenizer."""
    inputs = RunInputs(configure(args, model, rows, rows[:1]))
    kept = set(inputs.load_candidates().encoded.ids)
    return [rows[sample.position] for sample in inputs.load_rows().samples if sample.id in kept]


def rank(args: argparse.Namespace, model: str, rows: list[dict], safe: list[dict]) -> np.ndarray:
    """The model's scores of the rows."""
    config = configure(args, model, rows, safe)
    inputs = RunInputs(config)
    job = Job(inputs.load_candidates().encoded, inputs.load_safe().encoded, config, lambda full: models.load_model(config, full=full))
    known = methods.rank(job).by_id()
    return np.array([known[sample.id] for sample in inputs.load_rows().samples])


def kept_rows(score: np.ndarray | None, *, everything: bool) -> np.ndarray:
    if score is None:
        return np.empty(0, int)
    order = np.argsort(-score, kind="stable")
    return np.sort(order if everything else order[: round(KEPT * len(order))])


def tune_and_measure(args: argparse.Namespace, rows: list[dict], held: dict, safe: list[dict]) -> dict[str, float]:
    """Mean losses of the tuned model on the held-out sets, in nats per response token; untuned without rows."""
    config = configure(args, args.tune, rows or held["safe"], safe)
    inputs = RunInputs(config)
    sets = {name: encode(args, found) for name, found in held.items()}
    model = models.load_model(config)
    player = lora_players(model, config.rank, ["tuned"], args.seed)["tuned"]
    batches = Batches(inputs.load_candidates().encoded, 8, args.seed)
    steps = args.epochs * -(-round(KEPT * args.rows) // 8) if rows else 0
    for step in range(steps):
        batch = batches.at(step)
        player.learn(batch, torch.ones(len(batch.rows)))
        player.descend()
    player.activate()
    return {
        f"loss on {name}": float(torch.cat([losses for _, losses in data_set_losses(model, found, 8)]).mean())
        for name, found in sets.items()
    }


def encode(args: argparse.Namespace, rows: list[dict]) -> Encoded:
    return RunInputs(configure(args, args.tune, rows, rows)).load_candidates().encoded


def ranks(values: np.ndarray) -> np.ndarray:
    return values.argsort().argsort()


if __name__ == "__main__":
    main()
