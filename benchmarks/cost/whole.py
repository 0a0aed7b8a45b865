"""The cost of choosing rows in total: rank, select, and tune on the kept rows, compared with plain fine-tuning on all.

``plain`` is TRL's SFTTrainer with the same rows, model, LoRA, batch, max_length and epochs. ``tuner`` is sealtune's own
trainer on all rows, which separates the gain of cheap ranking from that of fast tuning. Loading the model and
tokenization count for neither side; writing the tuned model counts for sealtune. Repetitions are interleaved, medians
are compared.

    python benchmarks/cost/whole.py --output benchmarks/results/whole.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks.lib import mixtures
from benchmarks.lib.paths import DATA
from benchmarks.lib.reports import provenance, write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=DATA)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--mixture", default="general_20")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--safe-rows", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {"plain": [], "tuner": [], "rank": [], "select": [], "tune": []}
    import trl  # noqa: F401  before the clock starts

    for repetition in range(args.repetitions):
        config = configure(args)
        parts = (time_stages, time_plain) if repetition % 2 == 0 else (time_plain, time_stages)
        for name, value in [pair for part in parts for pair in part(config).items()]:
            seconds[name].append(value)
            print(f"{name:8} {value:7.1f} s", file=sys.stderr)
    report = summarise(seconds, args)
    print(json.dumps(report["ratios"], indent=2))
    write_report(report, args.output)


def configure(args: argparse.Namespace):
    from sealtune.core.config_io import build_config

    safe = mixtures.safe_rows(args.folder, "mixed", args.safe_rows, seed=0)
    rows = mixtures.candidates(args.folder, args.mixture, args.rows, 0, safe)
    return build_config(
        {
            "model_name_or_path": args.model,
            "datasets": [{"path": args.mixture, "rows": rows}],
            "safe_datasets": [{"path": "safe", "rows": safe}],
            "max_length": args.max_length,
        }
    )


def time_stages(config) -> dict[str, float]:
    """Seconds of each stage with the default settings."""
    from sealtune.pipeline.run import Run
    from sealtune.pipeline.runner import run_stage

    with tempfile.TemporaryDirectory() as folder:
        run = Run(config.model_copy(update={"output_dir": folder}))
        run.inputs.load_candidates(), run.inputs.load_safe()  # tokenized before the clock starts
        loading, load = [0.0], run.load_model

        def timed_load(*args, **options):
            started = time.perf_counter()
            model = load(*args, **options)
            loading[0] += time.perf_counter() - started
            return model

        run.load_model = timed_load
        found = {}
        for stage in ("rank", "select", "tune"):
            started, loading[0] = time.perf_counter(), 0.0
            run_stage(run, stage)
            found[stage] = time.perf_counter() - started - loading[0]
    return found


def time_plain(config) -> dict[str, float]:
    """Seconds of fine-tuning on all rows, by TRL's trainer and by sealtune's."""
    from trl import SFTTrainer

    from sealtune.models.load import load_model
    from sealtune.pipeline.inputs import RunInputs
    from sealtune.tuning.train import train
    from sealtune.tuning.trainer import ResponseTrainer

    inputs, found = RunInputs(config), {}
    rows = inputs.load_candidates().encoded
    for name, trainer in (("plain", SFTTrainer), ("tuner", ResponseTrainer)):
        model = load_model(config)
        started = time.perf_counter()
        train(model, inputs.load_tokenizer(), rows, config, lambda *_: None, trainer)
        found[name] = time.perf_counter() - started
    return found


def summarise(seconds: dict[str, list[float]], args: argparse.Namespace) -> dict:
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    whole = medians["rank"] + medians["select"] + medians["tune"]
    return {
        "seconds": medians,
        "repetitions": seconds,
        "ratios": {"whole_over_plain": whole / medians["plain"], "whole_over_own_tuner": whole / medians["tuner"]},
        **provenance(args),
    }


if __name__ == "__main__":
    main()
