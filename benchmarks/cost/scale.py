"""Does a step of ranking cost more with more candidates? Time of a step and memory of the ranking loop, by N.

Synthetic rows of 16 tokens, memory-mapped from a file; a model of two layers, so that whatever the selector, the
batches and the records of N rows cost would show. What is measured is the loop itself (``train.Ranking``): rows, their
ids and their tokens are data and not counted. Each N runs in a process of its own. Memory is the most that the process
had allocated (anonymous pages, looked at every few milliseconds), from the shuffle that opens an epoch to the account
that closes it, beyond a run with the fewest rows. Both come once in N / B steps and are told apart from the others.

    python benchmarks/scale.py --output benchmarks/results/scale.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from probe import most_memory, two_layers

TOKENS = 16


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
    found = [run_apart(n) for n in args.rows]
    report = summarise(found, args)
    for row in report["by_rows"]:
        print(
            f"{row['rows']:>12,} rows  {row['seconds_per_step'] * 1e3:7.1f} ms a step  "
            f"{row['first_step_seconds']:6.2f} s the first  {row['epoch_end_seconds']:6.2f} s an epoch's end  "
            f"{row['bytes_per_row']:6.1f} bytes a row"
        )
    if args.output:
        args.output.write_text(json.dumps(report, indent=2) + "\n")


def run_apart(n: int) -> dict:
    command = [sys.executable, __file__, *sys.argv[1:], "--one", str(n)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def summarise(found: list[dict], args: argparse.Namespace) -> dict:
    from sealtune.pipeline.environment import machine, versions

    least = found[0]
    for row in found:
        extra = row["memory_bytes"] - least["memory_bytes"]
        row["bytes_per_row"] = extra / (row["rows"] - least["rows"]) if row["rows"] > least["rows"] else 0.0
    return {
        "command": " ".join(["python", *sys.argv]),
        "by_rows": found,
        "step_over_least": found[-1]["seconds_per_step"] / least["seconds_per_step"],
        "settings": {k: v for k, v in vars(args).items() if k not in ("output", "one")},
        "machine": machine(),
        "versions": versions(),
    }


def measure(n: int, args: argparse.Namespace) -> dict:
    """Steps of ranking n rows."""
    import torch

    from sealtune.core.config import RankConfig
    from sealtune.models.adapters import lora_players
    from sealtune.ranking.loop import SealLoop
    from sealtune.ranking.methods.seal import make_selector
    from sealtune.ranking.safe_set import PLAYERS

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = two_layers(300)
    settings = RankConfig(per_device_train_batch_size=args.batch, algorithm=args.algorithm, gamma_schedule="constant")
    with tempfile.TemporaryDirectory() as folder:
        candidates, safe = mapped_rows(Path(folder, "candidates"), n), mapped_rows(Path(folder, "safe"), 64)
        players = lora_players(model, settings, PLAYERS[args.algorithm], seed=0)
        ranking = SealLoop(candidates, safe, players, make_selector(n, settings), settings, seed=0)
        with most_memory() as memory:
            seconds, run = [], ranking.run()
            for _ in range(args.steps):
                started = time.perf_counter()
                next(run)
                seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
            ranking.doubt.end_epoch(ranking.selector.omega)
            ended = time.perf_counter() - started
    return {
        "rows": n,
        "seconds_per_step": statistics.median(seconds[1:]),
        "first_step_seconds": seconds[0],
        "epoch_end_seconds": ended,
        "memory_bytes": memory["allocated"],
    }


class Numbered(Sequence):
    """Ids that are made when they are asked for."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i) -> str:
        return f"row-{range(self.n)[i]}"


def mapped_rows(path: Path, n: int):
    """n rows of random tokens in a file; the second half of each is learned."""
    import numpy as np

    from sealtune.data.encoded import Encoded

    random = np.random.default_rng(n)
    shape, block = (n * TOKENS,), 10**5 * TOKENS
    tokens = np.memmap(f"{path}.tokens", np.int32, "w+", shape=shape)
    mask = np.memmap(f"{path}.mask", np.bool_, "w+", shape=shape)
    for start in range(0, n * TOKENS, block):
        stop = min(start + block, n * TOKENS)
        tokens[start:stop] = random.integers(3, 300, stop - start)
        mask[start:stop] = np.arange(start, stop) % TOKENS >= TOKENS // 2
    bounds = np.memmap(f"{path}.bounds", np.int64, "w+", shape=(n + 1,))
    bounds[:] = np.arange(n + 1) * TOKENS
    for array in (tokens, mask, bounds):
        array.flush()
    return Encoded(Numbered(n), Numbered(n), tokens, mask, bounds)


if __name__ == "__main__":
    main()
