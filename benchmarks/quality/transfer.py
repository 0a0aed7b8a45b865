"""Does a ranking by one model serve another? Rank with several models, drop the worst fifth, tune one model, measure.

The tuned model's loss on held-out unsafe rows should stay high (it did not learn to answer them), its loss on held-out
safe rows of the same tasks low. ``all`` drops nothing, ``random`` a random fifth; all are tuned for the same number of
steps.

    python benchmarks/quality/transfer.py --rank-with MODEL_A MODEL_B --tune MODEL_A \\
        --output benchmarks/results/transfer.json
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from sealtune.core.config import Config
from sealtune.core.config_io import build_config
from sealtune.data.batches import Batches
from sealtune.data.encoded import Encoded
from sealtune.evaluation import metrics
from sealtune.models.adapters import lora_players
from sealtune.models.causal_lm import dataset_losses
from sealtune.models.load import load_model
from sealtune.pipeline.inputs import RunInputs
from sealtune.ranking import methods
from sealtune.ranking.job import Job

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks.lib import mixtures
from benchmarks.lib.paths import DATA
from benchmarks.lib.reports import provenance, write_report

KEPT = 0.8
BATCH = 8


def main() -> None:
    args = parse()
    safe = mixtures.safe_rows(args.folder, "mixed", args.safe_rows, args.seed)
    rows, held_out = split_rows(args)
    scores = {name: rank(args, name, rows, safe) for name in args.rank_with}
    scores["random"] = np.random.default_rng(args.seed).permutation(len(rows)).astype(float)
    unsafe = np.array([row["unsafe"] for row in rows])
    results = []
    for name, score in {"untuned": None, "all": np.zeros(len(rows)), **scores}.items():
        kept = kept_rows(score, everything=name == "all")
        auroc = None if name in ("untuned", "all") else metrics.auroc(score, unsafe)
        facts = {"ranked with": Path(name).name, "auroc": auroc, "unsafe kept": int(unsafe[kept].sum())}
        results.append(facts | tune_and_measure(args, [rows[i] for i in kept], held_out, safe))
        print(results[-1], file=sys.stderr, flush=True)
    agreement = {
        f"{Path(a).name} and {Path(b).name}": float(np.corrcoef(ranks(scores[a]), ranks(scores[b]))[0, 1])
        for a, b in combinations(sorted(set(args.rank_with)), 2)
    }
    write_report({"results": results, "rank_correlation": agreement, **provenance(args)}, args.output)
    print(json.dumps(results, indent=1), json.dumps(agreement))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=DATA)
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


def split_rows(args: argparse.Namespace) -> tuple[list[dict], dict[str, list[dict]]]:
    """Candidates that every model can use, and held-out rows that are ``unsafe`` and ``safe``."""
    found = mixtures.sample(mixtures.read(args.folder / "mixtures" / f"{args.mixture}.jsonl"), None, args.seed)
    for model in {args.tune, *args.rank_with}:
        found = usable(args, model, found)
    rest = found[args.rows :]
    unsafe, safe = [row for row in rest if row["unsafe"]], [row for row in rest if not row["unsafe"]]
    return found[: args.rows], {"unsafe": unsafe[: args.held_out], "safe": safe[: args.held_out]}


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
    """The rows that are not too long under this model's tokenizer."""
    inputs = RunInputs(configure(args, model, rows, rows[:1]))
    kept = set(inputs.load_candidates().encoded.ids)
    return [rows[sample.position] for sample in inputs.load_rows().samples if sample.id in kept]


def rank(args: argparse.Namespace, model: str, rows: list[dict], safe: list[dict]) -> np.ndarray:
    """The scores of the rows by this model."""
    config = configure(args, model, rows, safe)
    inputs = RunInputs(config)
    candidates, safe_set = inputs.load_candidates().encoded, inputs.load_safe().encoded
    scores = methods.rank(Job(candidates, safe_set, config, lambda full: load_model(config, full=full))).by_id()
    return np.array([scores[sample.id] for sample in inputs.load_rows().samples])


def kept_rows(score: np.ndarray | None, *, everything: bool) -> np.ndarray:
    """Positions of the rows to tune on, in order; none without scores."""
    if score is None:
        return np.empty(0, int)
    order = np.argsort(-score, kind="stable")
    return np.sort(order if everything else order[: round(KEPT * len(order))])


def tune_and_measure(
    args: argparse.Namespace, rows: list[dict], held_out: dict[str, list[dict]], safe: list[dict]
) -> dict[str, float]:
    """Mean losses on the held-out sets, in nats per response token, after tuning on the rows, if there are any."""
    config = configure(args, args.tune, rows or held_out["safe"], safe)
    sets = {name: encode(args, found) for name, found in held_out.items()}
    model = load_model(config)
    player = lora_players(model, config.rank, ["tuned"], args.seed)["tuned"]
    batches = Batches(RunInputs(config).load_candidates().encoded, BATCH, args.seed)
    steps = args.epochs * -(-round(KEPT * args.rows) // BATCH) if rows else 0
    for step in range(steps):
        batch = batches.at(step)
        player.learn(batch, torch.ones(len(batch.rows)))
        player.descend()
    player.activate()
    return {
        f"loss on {name}": float(torch.cat([losses for _, losses in dataset_losses(model, found, BATCH)]).mean())
        for name, found in sets.items()
    }


def encode(args: argparse.Namespace, rows: list[dict]) -> Encoded:
    return RunInputs(configure(args, args.tune, rows, rows)).load_candidates().encoded


def ranks(values: np.ndarray) -> np.ndarray:
    return values.argsort().argsort()


if __name__ == "__main__":
    main()
