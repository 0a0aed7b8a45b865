"""How well rankers find the unsafe rows of labelled mixtures, and what they cost, in one run.

A mixture is a JSONL file with the truth in its columns: ``unsafe`` (1 = the answer harms), ``hard_negative`` (1 = a
safe answer to a sensitive prompt, to be kept) and ``quality`` (``low``). No ranker sees them. The folder of the data
holds ``mixtures/*.jsonl`` and ``safe/mixed.jsonl``; it is $SEALTUNE_DATA or --folder.

    python benchmarks/ranking.py --small --output benchmarks/results/ranking-small.json
    python benchmarks/ranking.py --rankers seal loss --mixtures general_20 --rows 400 --seeds 0 1 2 rank.algorithm=1

Cost counts tokens that pass through the model, a backward pass as two forward ones, as a multiple of one plain
fine-tuning epoch over the candidates. ``ceiling`` is a TF-IDF and logistic regression trained on the labels themselves,
cross-validated: what labels would give, not a ranker.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

SMALL = {"rows": 96, "safe_rows": 64, "max_length": 128, "mixtures": ["general_20"]}
MEASURES = ("auroc", "average_precision", "recall_20", "recall_k", "hard_negatives_dropped", "low_quality_dropped")
COSTS = ("forward_epochs", "backward_epochs", "cost", "seconds", "peak_memory_bytes")


def main() -> None:
    args = parse()
    folder = Path(args.folder)
    if not (folder / "mixtures").is_dir():
        sys.exit(f"error: {folder}/mixtures: no such folder; name the labelled data by --folder or SEALTUNE_DATA")
    runs: list[dict] = []
    for mixture in args.mixtures or sorted(p.stem for p in (folder / "mixtures").glob("*.jsonl")):
        for seed in args.seeds:
            task = Task(args, folder, mixture, seed)
            for ranker in args.rankers:
                runs.append(task.measure(ranker))
                print(line(runs[-1]), file=sys.stderr, flush=True)
                save(runs, args)  # after each: what was measured is not lost
    print(markdown(table(runs)))


def save(runs: list[dict], args: argparse.Namespace) -> None:
    if not args.output:
        return
    command = " ".join(["python", *sys.argv])
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(
        json.dumps({"command": command, "runs": runs, "table": table(runs), **about(args)}, indent=1)
    )
    args.output.with_suffix(".md").write_text(f"`{command}`\n\n{markdown(table(runs))}")


def parse() -> argparse.Namespace:
    from sealtune import rankers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=os.environ.get("SEALTUNE_DATA", "../shared/data"))
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--mixtures", nargs="+")
    parser.add_argument("--rankers", nargs="+", default=[*rankers.names(), "ceiling"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, help="candidates taken of a mixture, by a hash of their ids")
    parser.add_argument("--safe-rows", type=int)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--output", type=Path)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", action="store_true", help="under 20 minutes on 2 cores")
    size.add_argument("--full", action="store_true", help="all rows; for a GPU")
    args, args.settings = parser.parse_known_args()
    if args.small:
        for key, value in SMALL.items():
            if getattr(args, key) in (None, parser.get_default(key)):
                setattr(args, key, value)
    if unknown := [word for word in args.settings if "=" not in word]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


class Task:
    """One mixture with one seed, tokenised once."""

    def __init__(self, args: argparse.Namespace, folder: Path, mixture: str, seed: int) -> None:
        from sealtune.config import apply_overrides, build_config
        from sealtune.material import Material

        self.mixture, self.seed = mixture, seed
        values = {
            "model_name_or_path": args.model,
            "datasets": [self._source(folder / "mixtures" / f"{mixture}.jsonl", args.rows)],
            "safe_datasets": [self._source(folder / "safe" / "mixed.jsonl", args.safe_rows)],
            "max_length": args.max_length,
            "seed": seed,
        }
        self.config = build_config(apply_overrides(values, args.settings))
        self.material = Material(self.config)
        self.candidates, self.safe = self.material.candidates[0], self.material.safe[0]
        rows = {sample.id: sample.row for sample in self.material.rows.samples}
        self.rows = [rows[row_id] for row_id in self.candidates.ids]

    @staticmethod
    def _source(path: Path, rows: int | None) -> dict:
        total = sum(1 for _ in path.open("rb"))
        return {"path": str(path), "fraction": min(1.0, rows / total) if rows else 1.0}

    def measure(self, ranker: str) -> dict:
        """One ranker's figures."""
        from sealtune.environment import measured

        with counted() as tokens, measured() as cost:
            score = self._ceiling() if ranker == "ceiling" else self._rank(ranker)
        epoch = len(self.candidates.tokens)
        forward, backward = tokens["forward"] / epoch, tokens["backward"] / epoch
        spent = {"forward_epochs": forward, "backward_epochs": backward, "cost": (forward + 2 * backward) / 3}
        where = {"mixture": self.mixture, "ranker": ranker, "seed": self.seed, "rows": len(score)}
        return where | quality(score, self.rows) | spent | cost

    def _rank(self, ranker: str) -> np.ndarray:
        from sealtune import models, rankers

        config = self.config.model_copy(update={"rank": self.config.rank.model_copy(update={"method": ranker})})
        job = rankers.Job(self.candidates, self.safe, config, lambda full: models.load_model(config, full=full))
        return rankers.rank(job).score

    def _ceiling(self) -> np.ndarray:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
        from sklearn.pipeline import make_pipeline

        unsafe = np.array([row["unsafe"] for row in self.rows])
        if len(set(unsafe.tolist())) < 2:
            return np.zeros(len(unsafe))
        texts = [f"{sample['prompt']}\n{sample['response']}" for sample in self.rows]
        model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=100))
        folds = StratifiedKFold(min(5, int(unsafe.sum())), shuffle=True, random_state=self.seed)
        return -cross_val_predict(model, texts, unsafe, cv=folds, method="decision_function")


def quality(score: np.ndarray, rows: list[dict]) -> dict[str, float | None]:
    """What the truth says of a ranking; None where the mixture has no such rows."""
    from sealtune.evaluation import metrics

    unsafe = np.array([int(row["unsafe"]) for row in rows])
    hard = np.array([int(row.get("hard_negative") or 0) for row in rows])
    low = np.array([int(row.get("quality") == "low") for row in rows])
    return {
        "unsafe": int(unsafe.sum()),
        "auroc": metrics.auroc(score, unsafe),
        "average_precision": metrics.average_precision(score, unsafe),
        "recall_20": metrics.recall_in_lowest(score, unsafe, 0.2),
        "recall_k": metrics.recall_at_k(score, unsafe, int(unsafe.sum())),
        "hard_negatives_dropped": metrics.recall_in_lowest(score, hard, 0.2),
        "low_quality_dropped": metrics.recall_in_lowest(score, low, 0.2),
    }


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Tokens that pass forward and backward through a language model within the block, padding not counted."""
    from sealtune.adapters import LanguageModel

    tokens = {"forward": 0, "backward": 0}
    original = LanguageModel.__init__

    def count(body, args, kwargs, output):
        real = int((kwargs["input_ids"] != 0).sum())  # padding is token 0, which hardly any row holds
        tokens["forward"] += real
        tokens["backward"] += real * output.last_hidden_state.requires_grad

    def counting(self, model):
        original(self, model)
        self.body.register_forward_hook(count, with_kwargs=True)

    LanguageModel.__init__ = counting
    try:
        yield tokens
    finally:
        LanguageModel.__init__ = original


def table(runs: list[dict]) -> list[dict]:
    """Mean and spread over seeds, a row for each mixture and ranker, then the mean over the mixtures."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for run in runs:
        groups.setdefault((run["mixture"], run["ranker"]), []).append(run)
        groups.setdefault(("mean", run["ranker"]), []).append(run)
    several = len({run["mixture"] for run in runs}) > 1
    return [
        {"mixture": mixture, "ranker": ranker, **{key: spread(group, key) for key in (*MEASURES, *COSTS)}}
        for (mixture, ranker), group in groups.items()
        if several or mixture != "mean"
    ]


def spread(group: list[dict], key: str) -> dict[str, float] | None:
    values = [run[key] for run in group if run[key] is not None]
    if not values:
        return None
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}


def markdown(rows: list[dict]) -> str:
    head = "| mixture | ranker | AUROC | AP | recall in 20 % | recall at k | hard neg. dropped | low quality dropped "
    lines = [head + "| cost, epochs | seconds |", "|---" * 10 + "|"]
    for row in sorted(rows, key=lambda r: (r["mixture"] == "mean", r["mixture"])):
        cells = [cell(row[key], 3 if key == "auroc" else 2) for key in MEASURES]
        costs = [cell(row["cost"], 2), cell(row["seconds"], 0)]
        lines.append(f"| {row['mixture']} | {row['ranker']} | " + " | ".join([*cells, *costs]) + " |")
    return "\n".join(lines) + "\n"


def cell(value: dict[str, float] | None, digits: int) -> str:
    return "" if value is None else f"{value['mean']:.{digits}f} ± {value['sd']:.{digits}f}"


def line(run: dict) -> str:
    figures = "  ".join(f"{key} {run[key]:.3f}" for key in MEASURES if run[key] is not None)
    return f"{time.strftime('%H:%M:%S')} {run['mixture']:12} {run['ranker']:14} seed {run['seed']}  {figures}"


def about(args: argparse.Namespace) -> dict:
    from sealtune.environment import git_revision, machine, versions

    settings = {k: v for k, v in vars(args).items() if k not in ("output", "folder")}
    return {"settings": settings, "machine": machine(), "versions": versions(), "git_revision": git_revision()}


if __name__ == "__main__":
    main()
