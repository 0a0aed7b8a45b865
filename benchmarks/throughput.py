"""Tokens per second and peak memory of ranking beside plain fine-tuning, in one run.

Same rows, model, LoRA, dtype, batch and max_length for all:

  sft          a training step of TRL's SFTTrainer
  algorithm_2  a ranking step without theta_hat, candidates' backward pass included (gamma > 0)
  algorithm_1  a ranking step with theta_hat

Every token that passes through the model in a step counts once a pass: for sft the rows of the batch; for algorithm_2
the candidates and the safe rows; for algorithm_1 the candidates twice and the safe rows. Padding does not count.
Each variant runs in a process of its own, so that peak memory is its own; rounds are interleaved, medians compared.

    python benchmarks/throughput.py --output benchmarks/results/throughput.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

VARIANTS = ("sft", "algorithm_2", "algorithm_1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--data", default="examples/quickstart/candidates.jsonl")
    parser.add_argument("--safe", default="examples/quickstart/safe.jsonl")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each round, after one to warm up")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args)))
        return
    rounds = [run_apart(variant, args) for _ in range(args.rounds) for variant in VARIANTS]
    report = summarise(rounds, args)
    show(report)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(report, indent=2) + "\n")


def run_apart(variant: str, args: argparse.Namespace) -> dict:
    words = [f"--{k.replace('_', '-')}={v}" for k, v in vars(args).items() if k not in ("output", "variant", "rounds")]
    command = [sys.executable, __file__, *words, f"--variant={variant}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"{variant:12} {result['tokens_per_second']:8.1f} tokens/s", file=sys.stderr)
    return result


def measure(args: argparse.Namespace) -> dict:
    """Tokens and seconds of each timed step of one variant."""
    from sealtune.config import build_config
    from sealtune.environment import peak_memory, reset_peak_memory
    from sealtune.material import Material

    block = {"per_device_train_batch_size": args.batch, "gamma": 0.5, "gamma_schedule": "constant"}
    config = build_config(
        {
            "model_name_or_path": args.model,
            "datasets": args.data,
            "safe_datasets": args.safe,
            "max_length": args.max_length,
            "rank": block | {"algorithm": 1 if args.variant == "algorithm_1" else 2},
            "tune": {"per_device_train_batch_size": args.batch, "max_steps": args.steps + 1},
        }
    )
    material = Material(config)
    material.candidates, material.safe  # noqa: B018  tokenised before the clock starts
    reset_peak_memory()
    steps = sft_steps(config, material) if args.variant == "sft" else ranking_steps(config, material, args.steps + 1)
    timed = steps[1:]
    tokens, seconds = sum(t for t, _ in timed), sum(s for _, s in timed)
    return {
        "variant": args.variant,
        "steps": timed,
        "tokens_per_second": tokens / seconds,
        "peak_memory_bytes": peak_memory(),
    }


def sft_steps(config, material) -> list[tuple[int, float]]:
    from trl import SFTTrainer

    from sealtune import finetune, models

    steps, last = [], None

    def advance(step, total, rows=0, tokens=0, note=""):
        nonlocal last
        now = time.perf_counter()
        steps.append((tokens, now - (last or now)))
        last = now

    model = models.load_model(config)
    finetune.train(model, material.tokenizer, material.candidates[0], config, advance, SFTTrainer)
    return steps


def ranking_steps(config, material, count: int) -> list[tuple[int, float]]:
    from sealtune import models, rankers
    from sealtune.players import PLAYERS, make_players
    from sealtune.rankers.seal import make_selector
    from sealtune.train import Ranking

    candidates, safe = material.candidates[0], material.safe[0]
    job = rankers.Job(candidates, safe, config, lambda full: models.load_model(config, full=full))
    selector = make_selector(len(candidates), config.rank)
    players = make_players(job, PLAYERS[config.rank.algorithm])
    run = Ranking(candidates, safe, players, selector, config.rank, config.seed).run()
    return [(record.tokens, record.seconds) for record, _ in zip(run, range(count), strict=False)]


def summarise(rounds: list[dict], args: argparse.Namespace) -> dict:
    from sealtune.environment import machine, versions

    def of(variant):
        return [r for r in rounds if r["variant"] == variant]

    speed = {v: statistics.median(t / s for r in of(v) for t, s in r["steps"]) for v in VARIANTS}
    memory = {v: statistics.median(r["peak_memory_bytes"] for r in of(v)) for v in VARIANTS}
    return {
        "command": " ".join(["python", *sys.argv]),
        "settings": {k: v for k, v in vars(args).items() if k not in ("output", "variant")},
        "tokens_per_second": speed,
        "peak_memory_bytes": memory,
        "speed_over_sft": {v: speed[v] / speed["sft"] for v in VARIANTS},
        "memory_over_sft": {v: memory[v] / memory["sft"] for v in VARIANTS},
        "machine": machine(),
        "versions": versions(),
    }


def show(report: dict) -> None:
    print("variant        tokens/s   of sft   peak MiB   of sft")
    for v in VARIANTS:
        speed, memory = report["tokens_per_second"][v], report["peak_memory_bytes"][v]
        ratios = report["speed_over_sft"][v], report["memory_over_sft"][v]
        print(f"{v:12} {speed:10.1f} {ratios[0]:8.2f} {memory / 2**20:10.0f} {ratios[1]:8.2f}")


if __name__ == "__main__":
    main()
