"""Tokens per second and peak memory of ranking beside plain fine-tuning, in one run.

Same rows, model, LoRA, dtype, batch and max_length for all variants (steps.py says what they are and how tokens are
counted). Each runs in a process of its own, so that peak memory is its own; rounds are interleaved, each draws rows of
its own, and medians over all steps are compared (``tokens_over_seconds`` has the sums).
The floor is what the machine could do: operations of the layers for all tokens and of the output layer for the learned
ones, over its measured matrix rate. Attention and adapters, some per cent, are left out of it.

    python benchmarks/throughput.py --output benchmarks/results/throughput.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from steps import IDEAS, VARIANTS, measure

FOLDER = Path(os.environ.get("SEALTUNE_DATA", "../shared/data"))
QUICKSTART = "examples/quickstart"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--data", default=first_file(FOLDER / "mixtures/general_20.jsonl", "candidates.jsonl"))
    parser.add_argument("--safe", default=first_file(FOLDER / "safe/mixed.jsonl", "safe.jsonl"))
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each round")
    parser.add_argument("--warm-up", type=int, default=1, help="steps before those that are timed")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS + IDEAS, default=list(VARIANTS))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--variant", choices=VARIANTS + IDEAS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure_here(args)))
        return
    started = time.perf_counter()
    rounds = [run_apart(variant, number, args) for number in range(args.rounds) for variant in args.variants]
    report = summarise(rounds, args) | {"seconds": time.perf_counter() - started}
    show(report)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(report, indent=2) + "\n")


def first_file(labelled: Path, ours: str) -> str:
    """Rows of a real length mix where they are, else those of the quickstart."""
    return str(labelled) if labelled.is_file() else f"{QUICKSTART}/{ours}"


def run_apart(variant: str, seed: int, args: argparse.Namespace) -> dict:
    own = ("output", "variant", "variants", "rounds", "seed")
    words = [f"--{k.replace('_', '-')}={v}" for k, v in vars(args).items() if k not in own]
    command = [sys.executable, __file__, *words, f"--variant={variant}", f"--seed={seed}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    speed = statistics.median(step["tokens"] / step["seconds"] for step in result["steps"])
    print(f"{variant:12} {speed:8.1f} tokens/s", file=sys.stderr)
    return result


def measure_here(args: argparse.Namespace) -> dict:
    """The timed steps of one variant, in this process."""
    import trl  # noqa: F401  by all variants, so that its pages count for none

    from sealtune.core.config_io import build_config
    from sealtune.models import load as models
    from sealtune.pipeline.environment import peak_memory, reset_peak_memory
    from sealtune.pipeline.inputs import RunInputs

    block = {"per_device_train_batch_size": args.batch, "gamma": 0.5, "gamma_schedule": "constant"}
    config = build_config(
        {
            "model_name_or_path": args.model,
            "datasets": args.data,
            "safe_datasets": args.safe,
            "max_length": args.max_length,
            "seed": args.seed,
            "rank": block | {"algorithm": 1 if args.variant == "algorithm_1" else 2},
            "tune": {"per_device_train_batch_size": args.batch},
        }
    )
    inputs = RunInputs(config)
    candidates, safe = inputs.load_candidates().encoded, inputs.load_safe().encoded
    rate = matrix_rate(models.compute_dtype(config))
    model = models.load_model(config)
    reset_peak_memory()
    steps = measure(args.variant, model, inputs.load_tokenizer(), candidates, safe, config, args.warm_up + args.steps)
    head = model.get_output_embeddings().weight.numel()
    weights = model.base_model.layers.named_parameters()
    layers = sum(p.numel() for name, p in weights if p.dim() == 2 and "lora" not in name)
    return {
        "variant": args.variant,
        "steps": steps[args.warm_up :],
        "peak_memory_bytes": peak_memory(),
        "operations_per_second": rate,
        "operations_per_token": 4 * (layers + head * float(candidates.mask.mean())),  # forward 2, backward 2 a weight
    }


def matrix_rate(dtype, size: int = 2048, repeats: int = 5) -> float:
    """Operations per second of the best of some products of large matrices."""
    import torch

    from sealtune.models.load import device

    left, right = (torch.randn(size, size).to(device(), dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        (left @ right)[0, 0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def summarise(rounds: list[dict], args: argparse.Namespace) -> dict:
    from sealtune.pipeline.environment import git_revision, machine, versions

    def median(figure, variant):
        return statistics.median(figure(r, s) for r in rounds if r["variant"] == variant for s in r["steps"])

    def each(figure):
        return {variant: median(figure, variant) for variant in args.variants}

    def total(key, variant):
        return sum(step[key] for r in rounds if r["variant"] == variant for step in r["steps"])

    speed = each(lambda r, s: s["tokens"] / s["seconds"])
    memory = each(lambda r, s: r["peak_memory_bytes"])
    base = args.variants[0]
    floor = max(r["operations_per_second"] for r in rounds) / rounds[0]["operations_per_token"]
    return {
        "command": " ".join(["python", *sys.argv]),
        "settings": {k: v for k, v in vars(args).items() if k not in ("output", "variant", "seed")},
        "git_revision": git_revision(),
        "tokens_per_second": speed,
        "tokens_over_seconds": {v: total("tokens", v) / total("seconds", v) for v in args.variants},
        "padding_share": {v: 1 - total("tokens", v) / total("positions", v) for v in args.variants},
        "peak_memory_bytes": memory,
        f"speed_over_{base}": {v: speed[v] / speed[base] for v in speed},
        f"memory_over_{base}": {v: memory[v] / memory[base] for v in speed},
        "share_outside_model": each(lambda r, s: 1 - s["model_seconds"] / s["seconds"]),
        "operations_per_second": max(r["operations_per_second"] for r in rounds),
        "floor_tokens_per_second": floor,
        "share_of_floor": {v: speed[v] / floor for v in speed},
        "machine": machine(),
        "versions": versions(),
    }


def show(report: dict) -> None:
    base = next(iter(report["tokens_per_second"]))
    print(f"variant        tokens/s   of {base}   peak MiB   of {base}  padding  outside model  of floor")
    for v in report["tokens_per_second"]:
        speed, memory = report["tokens_per_second"][v], report["peak_memory_bytes"][v]
        ratios = report[f"speed_over_{base}"][v], report[f"memory_over_{base}"][v]
        shares = (report[key][v] for key in ("padding_share", "share_outside_model", "share_of_floor"))
        padding, outside, floor = (f"{share:.1%}" for share in shares)
        print(
            f"{v:12} {speed:10.1f} {ratios[0]:8.2f} {memory / 2**20:10.0f} {ratios[1]:8.2f} "
            f"{padding:>8} {outside:>14} {floor:>9}"
        )
    print(f"floor: {report['floor_tokens_per_second']:,.0f} tokens/s")


if __name__ == "__main__":
    main()
