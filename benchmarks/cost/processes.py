"""Ranking by two processes on two cores beside one process on one core: tokens per second, in one run.

The same rows, the same batch of rows a step (shared by the processes), one thread a process; rounds are interleaved and
medians compared. ``--cores 4`` compares four processes with one, and so on; on GPUs it takes one each.

    python benchmarks/distributed.py --output benchmarks/results/distributed.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from throughput import FOLDER, first_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--data", default=first_file(FOLDER / "mixtures/general_20.jsonl", "candidates.jsonl"))
    parser.add_argument("--safe", default=first_file(FOLDER / "safe/mixed.jsonl", "safe.jsonl"))
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16, help="candidates of one step, in all processes together")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each round, after one to warm up")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    speeds: dict[int, list[float]] = {1: [], args.cores: []}
    for _ in range(args.rounds):
        for count in speeds:
            speeds[count] += launch(args, count)
    medians = {str(count): statistics.median(found) for count, found in speeds.items()}
    report = summary(args, medians)
    print(json.dumps(report, indent=2))
    if args.output:
        args.output.write_text(json.dumps(report, indent=2) + "\n")


def launch(args: argparse.Namespace, count: int) -> list[float]:
    """Tokens per second of each timed step of so many processes, all together."""
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
    """Some steps of Algorithm 2, in this process and those beside it."""
    import torch

    from sealtune.core import distributed
    from sealtune.core.config_io import build_config
    from sealtune.models import load as models
    from sealtune.pipeline.inputs import RunInputs
    from sealtune.ranking.job import Job
    from sealtune.ranking.loop import SealLoop
    from sealtune.ranking.safe_set import make_players
    from sealtune.ranking.selector import FreeLogits, Mirror

    torch.set_num_threads(1)
    each = args.batch // args.cores
    block = {"method": "seal", "gamma": 0.5, "gamma_schedule": "constant", "per_device_train_batch_size": each}
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
    players = make_players(Job(candidates, safe, config, lambda full: models.load_model(config, full=full)), ["theta"])
    selector = FreeLogits(len(candidates), Mirror())
    ranking = SealLoop(candidates, safe, players, selector, config.rank, config.seed)
    records = [record for _, record in zip(range(args.steps + 1), ranking.run(), strict=False)]
    if distributed.is_main_process():
        print(json.dumps([record.tokens / record.seconds for record in records[1:]]))


def summary(args: argparse.Namespace, medians: dict[str, float]) -> dict:
    from sealtune.pipeline.environment import machine, versions

    return {
        "command": " ".join(["python", *sys.argv]),
        "settings": {k: v for k, v in vars(args).items() if k not in ("output", "worker")},
        "tokens_per_second": medians,
        "speed_up": medians[str(args.cores)] / medians["1"],
        "machine": machine(),
        "versions": versions(),
    }


if __name__ == "__main__":
    main()
