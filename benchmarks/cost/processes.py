"""Ranking by two processes on two cores, compared with one process on one core: tokens per second, in one run.

The same rows, the same batch per step (split between the processes), one thread per process. Rounds are interleaved,
medians are compared. ``--cores 4`` compares four processes with one; on GPUs every process has its own.

    python benchmarks/cost/processes.py --output benchmarks/results/processes.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks.lib.paths import labelled_or_quickstart
from benchmarks.lib.reports import provenance, write_report


def main() -> None:
    args = parse()
    if args.worker:
        work(args)
        return
    speeds: dict[int, list[float]] = {1: [], args.cores: []}
    for _ in range(args.rounds):
        for count in speeds:
            speeds[count] += launch(args, count)
    medians = {str(count): statistics.median(found) for count, found in speeds.items()}
    report = {"tokens_per_second": medians, "speed_up": medians[str(args.cores)] / medians["1"]}
    report |= provenance(args, hidden=("worker",))
    print(json.dumps(report, indent=2))
    write_report(report, args.output)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    candidates = labelled_or_quickstart("mixtures/general_20.jsonl", "candidates.jsonl")
    safe = labelled_or_quickstart("safe/mixed.jsonl", "safe.jsonl")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--data", default=str(candidates))
    parser.add_argument("--safe", default=str(safe))
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16, help="candidates per step, in all processes together")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="timed steps per round, after one to warm up")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def launch(args: argparse.Namespace, count: int) -> list[float]:
    """Tokens per second of each timed step, in ``count`` processes together."""
    words = [f"--{k.replace('_', '-')}={v}" for k, v in vars(args).items() if k not in ("output", "worker")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    done = subprocess.run(
        [*command, __file__, *words, "--worker"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    speeds: list[float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{count} processes: {statistics.median(speeds):.1f} tokens/s", file=sys.stderr)
    return speeds


def work(args: argparse.Namespace) -> None:
    """A few steps of Algorithm 2, in one of the processes."""
    import torch

    from sealtune.core import distributed
    from sealtune.core.config_io import build_config
    from sealtune.models.load import load_model
    from sealtune.pipeline.inputs import RunInputs
    from sealtune.ranking.job import Job
    from sealtune.ranking.loop import SealLoop
    from sealtune.ranking.safe_set import make_players
    from sealtune.ranking.selector import FreeLogits, Mirror

    torch.set_num_threads(1)
    per_device = args.batch // args.cores
    block = {"method": "seal", "gamma": 0.5, "gamma_schedule": "constant", "per_device_train_batch_size": per_device}
    block |= {"gradient_accumulation_steps": args.cores // distributed.num_processes()}
    config = build_config(
        {
            "model_name_or_path": args.model,
            "datasets": args.data,
            "safe_datasets": args.safe,
            "max_length": args.max_length,
            "rank": block,
        }
    )
    inputs = RunInputs(config)
    candidates, safe = inputs.load_candidates().encoded, inputs.load_safe().encoded
    players = make_players(Job(candidates, safe, config, lambda full: load_model(config, full=full)), ["theta"])
    loop = SealLoop(candidates, safe, players, FreeLogits(len(candidates), Mirror()), config.rank, config.seed)
    records = [record for _, record in zip(range(args.steps + 1), loop.run(), strict=False)]
    if distributed.is_main_process():
        print(json.dumps([record.tokens / record.seconds for record in records[1:]]))


if __name__ == "__main__":
    main()
