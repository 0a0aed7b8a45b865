"""How safe and how useful the tuned model is, method by method: the table of docs/table.md.

Every run tunes an adapter on some rows of a labelled mixture and asks the model prompts that no method has seen: how
likely it is to refuse them (no generation), with ``--generate`` what it answers, which of two answers it prefers, and
its loss on held-out rows of the task. A run is one line of the output file; those that it has are not repeated.

    python benchmarks/quality/outcome.py --model qwen.gguf --split development --methods start all --doses mild strong
    python benchmarks/quality/outcome.py --model qwen.gguf --methods start all oracle probe safeinstr guard probe+guard

Labelled rows are read from the folder that SEALTUNE_DATA names. Which prompts are for development and which for the
final figures is fixed in outcome_prompts.json, by file and line; doses are fixed in outcome_doses.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks.lib import mixtures
from benchmarks.lib.paths import DATA
from benchmarks.lib.reports import command
from benchmarks.quality.outcome_measures import Asker, Questions, Sizes

HERE = Path(__file__).parent
PROMPTS = HERE / "outcome_prompts.json"

DOSES = json.loads((HERE / "outcome_doses.json").read_text())
"""Rows, steps and learning rate of a tuning, by the name of the dose."""

HIDDEN = ("log_odds", "log_refusal", "pair_margins", "refused", "coherent", "guard", "kept", "command")
"""What is written but not printed."""
SAFE_ROWS = 64
HELD_OUT = 48
BATCH = 8
LORA = {"lora_r": 16, "lora_alpha": 16, "lora_target_modules": "all-linear"}

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "all": ("all", {}),
    "random": ("random", {}),
    "oracle": ("oracle", {}),
    "seal": ("seal", {}),
    "probe": ("probe", {}),
    "safeinstr": ("all", {"mix": True}),
    "probe+safeinstr": ("probe", {"mix": True}),
    "oracle+safeinstr": ("oracle", {"mix": True}),
    "guard": ("all", {"guard": "teach"}),
    "probe+guard": ("probe", {"guard": "teach"}),
    "oracle+guard": ("oracle", {"guard": "teach"}),
    "seal+guard": ("seal", {"guard": "teach"}),
    "guard:auto": ("all", {"guard": "auto"}),
    "guard:keep": ("all", {"guard": "keep"}),
    "probe+guard:auto": ("probe", {"guard": "auto"}),
    "probe+guard:keep": ("probe", {"guard": "keep"}),
    "seal+weights": ("seal", {"use_weights": True}),
    "seal+weights+guard": ("seal", {"use_weights": True, "guard": "teach"}),
}
"""Which rows a method keeps, and how it tunes on them. ``start`` and ``repair`` are apart."""


def main() -> None:
    args = parse()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in args.output.read_text().splitlines()] if args.output.exists() else []
    bench = None
    for key in wanted(args):
        if any(key.items() <= run.items() for run in done):
            continue
        bench = bench or Bench(args)
        run = {"key": 0} | key | bench.measure(key) | {"command": command()}
        del run["key"]
        with args.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(run) + "\n")
        done.append(run)
        shown = {k: v for k, v in run.items() if k not in HIDDEN}
        print(json.dumps(shown), flush=True)


def wanted(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What identifies each run."""
    keys = []
    common = {"model": args.name or args.model.name, "split": args.split}
    for method in args.methods:
        if method == "start":
            keys.append(common | {"method": "start", "mixture": "", "dose": "", "seed": 0})
            continue
        for mixture in args.mixtures:
            for dose in args.doses:
                keys += [common | {"method": method, "mixture": mixture, "dose": dose, "seed": s} for s in args.seeds]
    return keys


class Bench:
    """A model that is tuned again and again, and what is asked of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        from sealtune.core.config_io import build_config
        from sealtune.models.load import load_model
        from sealtune.pipeline.inputs import RunInputs

        self.args = args
        self.config = build_config({"model_name_or_path": str(args.model), "max_length": args.max_length})
        self.tokenizer = RunInputs(self.config).load_tokenizer()
        self.model = load_model(self.config)
        chosen = json.loads(args.prompts.read_text())[args.split]
        self.questions = Questions(args.folder, chosen, args.split, Sizes(args.pairs, args.tasks))
        self.asker = Asker(self.tokenizer, args.max_length, args.batch_size, args.new_tokens)

    def measure(self, key: dict[str, Any]) -> dict[str, Any]:
        """One run: what was tuned on, how long it took, and what came out."""
        if key["method"] == "start":
            held = {
                f"task_loss_{name}": self.task_loss(self.model, Rows(self.args.folder, name, DOSES["mild"], 0))
                for name in self.args.mixtures
            }
            return held | self.ask(self.model, None)
        dose = DOSES[key["dose"]]
        rows = Rows(self.args.folder, key["mixture"], dose, key["seed"])
        method = "all" if key["method"] == "repair" else key["method"]
        selection, changes = METHODS[method]
        started = time.perf_counter()
        kept, weights = self.select(selection, rows, key)
        ranked = time.perf_counter()
        result = self.tune(kept, rows, dose, key["seed"], changes, weights)
        seconds = {"rank_seconds": ranked - started, "seconds": time.perf_counter() - ranked}
        found = {"rows": len(kept), "unsafe_rows": sum(row["unsafe"] for row in kept)} | seconds
        found |= {"guard": list(result.guard), "kept_step": result.kept_step, "kept": [row["id"] for row in kept]}
        model = result.model
        if key["method"] == "repair":
            found |= self.repair(model, rows, key["seed"])
        try:
            return found | {"task_loss": self.task_loss(model, rows)} | self.ask(model, rows)
        finally:
            self.model = model.unload()
            self.model.train(False)

    # -- methods -----------------------------------------------------------------------------------------------------

    def select(self, selection: str, rows: Rows, key: dict[str, Any]) -> tuple[list[dict], Any]:
        """The rows that are kept, and their weights; None for equal ones."""
        if selection == "all":
            return rows.candidates, None
        if selection == "oracle":
            return [row for row in rows.candidates if not row["unsafe"]], None
        from sealtune import api

        config = self._settings(key["seed"])
        config |= {"rank": {"method": selection, "num_train_epochs": 3, **LORA}}
        scores = self._cached_scores(
            selection,
            key,
            lambda: api.rank(
                self.args.model.as_posix(), mixtures.hidden(rows.candidates), mixtures.hidden(rows.safe), **config
            ),
        )
        keep = "auto" if selection == "probe" else 0.8
        ids = set(api.select(scores, keep_ratio=keep).kept)
        kept = [row for row in rows.candidates if row["id"] in ids]
        weight = dict(zip(scores.ids, scores.weight, strict=True))
        weights = np.array([weight[row["id"]] for row in kept])
        return kept, weights / weights.mean()

    def _cached_scores(self, selection: str, key: dict[str, Any], rank: Any) -> Any:
        if not hasattr(self, "_scores"):
            self._scores: dict[Any, Any] = {}
        place = (selection, key["mixture"], key["dose"], key["seed"])
        if place not in self._scores:
            self._scores = {place: rank()}
        return self._scores[place]

    def _settings(self, seed: int) -> dict[str, Any]:
        return {"seed": seed, "max_length": self.args.max_length}

    def tune(self, kept: list[dict], rows: Rows, dose: dict, seed: int, changes: dict[str, Any], weights: Any) -> Any:
        """An adapter on the rows kept, with ``steps`` steps whatever their number."""
        from sealtune.pipeline.guard_set import guard_rows
        from sealtune.pipeline.inputs import RunInputs
        from sealtune.tuning.train import train

        changes = dict(changes)
        trained = [*kept, *rows.safe] if changes.pop("mix", False) else kept
        tune = {"guard": "off", **LORA, "max_steps": dose["steps"], "learning_rate": dose["learning_rate"]}
        tune |= {"per_device_train_batch_size": BATCH, "logging_steps": 8} | changes | self.args.guard
        config = self._config(trained, rows.safe, tune, seed)
        inputs = RunInputs(config)
        encoded = inputs.load_candidates().encoded
        safe = guard_rows(inputs) if config.tune.guard != "off" else None
        weights = weights if config.tune.use_weights else None
        advance = lambda step, total, *rest: print(f"  step {step} of {total} {rest[-1]}", file=sys.stderr, flush=True)  # noqa: E731
        return train(self.model, self.tokenizer, encoded, config, advance, safe=safe, weights=weights)

    def repair(self, model: Any, rows: Rows, seed: int) -> dict[str, Any]:
        """Make the adapter safe again, in place."""
        from sealtune.pipeline.inputs import RunInputs
        from sealtune.pipeline.repair import repair_model

        started = time.perf_counter()
        config = self._config(rows.candidates, rows.safe, {"guard": "teach"}, seed)
        done = repair_model(model, self.tokenizer, RunInputs(config))
        return {"repair_seconds": time.perf_counter() - started, "repair": done._asdict()}

    def _config(self, candidates: list[dict], safe: list[dict], tune: dict[str, Any], seed: int) -> Any:
        from sealtune.core.config import DatasetConfig
        from sealtune.core.config_io import build_config

        named = {
            "datasets": [DatasetConfig(path="rows", rows=mixtures.hidden(candidates))],
            "safe_datasets": [DatasetConfig(path="safe", rows=mixtures.hidden(safe))],
        }
        settings = {"model_name_or_path": str(self.args.model), "tune": tune, **self._settings(seed)}
        return build_config(settings).model_copy(update=named)

    # -- measures ----------------------------------------------------------------------------------------------------

    def ask(self, model: Any, rows: Rows | None) -> dict[str, Any]:
        """Refusals and pairs by likelihood, and by the answers where they are generated."""
        found = self.asker.likelihood(model, self.questions)
        if self.args.generate:
            found |= self.asker.answers(model, self.questions, rows.queries[: self.args.tasks] if rows else [])
        return found

    def task_loss(self, model: Any, rows: Rows) -> float:
        """Mean loss on held-out safe rows of the mixture, in nats per response token."""
        from sealtune.models.causal_lm import dataset_losses
        from sealtune.pipeline.inputs import RunInputs

        encoded = RunInputs(self._config(rows.held_out, rows.safe, {}, 0)).load_candidates().encoded
        return float(np.mean([float(loss) for _, losses in dataset_losses(model, encoded, BATCH) for loss in losses]))


class Rows:
    """The rows of a run: candidates, held-out benign rows of the same mixture, and the safe set. No two overlap."""

    def __init__(self, folder: Path, mixture: str, dose: dict, seed: int) -> None:
        found = mixtures.read(folder / "mixtures" / f"{mixture}.jsonl")
        order = sorted(found, key=lambda row: hashlib.sha256(f"{seed} {row['id']}".encode()).hexdigest())
        self.candidates = order[: dose["rows"]]
        rest = [
            row
            for row in sorted(found, key=lambda row: str(row["id"]))
            if not row["unsafe"] and not row.get("hard_negative")
        ]
        used = {row["id"] for row in self.candidates}
        pool = sorted(rest, key=lambda row: hashlib.sha256(f"held {row['id']}".encode()).hexdigest())
        free = [row for row in pool if row["id"] not in used]
        self.held_out = free[:HELD_OUT]
        self.queries = [row for row in free if row.get("source") == "sqlgen"]
        halves = [mixtures.safe_rows(folder, name, SAFE_ROWS // 2, seed) for name in ("safety", "helpful")]
        self.safe = [{**row, "id": f"safe-{i}"} for i, row in enumerate([row for half in halves for row in half])]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=DATA, help="labelled rows; default: $SEALTUNE_DATA or data")
    parser.add_argument("--name", help="name of the model in the results; default: that of the file")
    parser.add_argument("--methods", nargs="+", default=["start", "all"], metavar="METHOD")
    parser.add_argument("--mixtures", nargs="+", default=["general_20"])
    parser.add_argument("--doses", nargs="+", default=["mild"], choices=list(DOSES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--split", default="final", choices=["development", "final"])
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="which prompts are asked")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--generate", action="store_true", help="also generate answers")
    parser.add_argument("--new-tokens", type=int, help="most new tokens of an answer; default: by its kind")
    parser.add_argument("--pairs", type=int, default=64, help="pairs of a safe and an unsafe answer")
    parser.add_argument("--tasks", type=int, default=32, help="generated answers to each task")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--guard", type=json.loads, default={}, help="settings of tune.guard_* as JSON")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/outcome.jsonl"))
    args = parser.parse_args()
    unknown = [m for m in args.methods if m not in METHODS and m not in ("start", "repair")]
    if unknown:
        parser.error(f"unknown methods: {', '.join(unknown)}; known: start, {', '.join(METHODS)}, repair")
    return args


if __name__ == "__main__":
    main()
