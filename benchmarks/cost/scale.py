"""Does a step of ranking cost more with more candidates? Time per step and memory of the SEAL loop, by N.

Synthetic rows of 16 tokens, memory-mapped from a file, and a model of two layers, so that the cost of the selector, the
batches and the records of N rows shows. Only the loop itself (``ranking/loop.py``) is measured, not the rows, their ids
and tokens. Each N runs in a process of its own. Memory is the peak of allocated memory (anonymous pages, sampled every
few milliseconds), from the shuffle at the start of an epoch to the statistics at its end, above the run with the fewest
rows. Both happen once in N / B steps and are timed separately.

    python benchmarks/cost/scale.py --output benchmarks/results/scale.json
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

from benchmarks.lib.process_memory import peak_memory
from benchmarks.lib.reports import provenance, run_child, write_report
from benchmarks.lib.tiny_inputs import mapped_rows, two_layer_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[10**3, 10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--algorithm", type=int, choices=(1, 2), default=1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args)))
        return
    report = summarise([run_child(__file__, *sys.argv[1:], "--one", n) for n in args.rows], args)
    for row in report["by_rows"]:
        print(
            f"{row['rows']:>12,} rows  {row['seconds_per_step'] * 1e3:7.1f} ms per step  "
            f"{row['first_step_seconds']:6.2f} s first step  {row['epoch_end_seconds']:6.2f} s end of epoch  "
            f"{row['bytes_per_row']:6.1f} bytes per row"
        )
    write_report(report, args.output)


def summarise(found: list[dict], args: argparse.Namespace) -> dict:
    least = found[0]
    for row in found:
        extra = row["memory_bytes"] - least["memory_bytes"]
        row["bytes_per_row"] = extra / (row["rows"] - least["rows"]) if row["rows"] > least["rows"] else 0.0
    growth = found[-1]["seconds_per_step"] / least["seconds_per_step"]
    return {"by_rows": found, "step_over_least": growth, **provenance(args, hidden=("one",))}


def measure(n: int, args: argparse.Namespace) -> dict:
    """A few steps of ranking n rows."""
    import torch

    from sealtune.core.config import RankConfig
    from sealtune.models.adapters import lora_players
    from sealtune.ranking.loop import SealLoop
    from sealtune.ranking.methods.seal import make_update
    from sealtune.ranking.safe_set import PLAYERS
    from sealtune.ranking.selector import FreeLogits

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = two_layer_model(300)
    settings = RankConfig(per_device_train_batch_size=args.batch, algorithm=args.algorithm, gamma_schedule="constant")
    with tempfile.TemporaryDirectory() as folder:
        candidates, safe = mapped_rows(Path(folder, "candidates"), n), mapped_rows(Path(folder, "safe"), 64)
        players = lora_players(model, settings, PLAYERS[args.algorithm], seed=0)
        loop = SealLoop(candidates, safe, players, FreeLogits(n, make_update(settings)), settings, seed=0)
        with peak_memory() as peak:
            seconds, run = [], loop.run()
            for _ in range(args.steps):
                started = time.perf_counter()
                next(run)
                seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
            loop.epochs.end_epoch(loop.selector.omega)
            ended = time.perf_counter() - started
    return {
        "rows": n,
        "seconds_per_step": statistics.median(seconds[1:]),
        "first_step_seconds": seconds[0],
        "epoch_end_seconds": ended,
        "memory_bytes": peak["allocated"],
    }


if __name__ == "__main__":
    main()
