"""Tokens per second and peak memory of ranking and of guarded tuning, compared with plain fine-tuning in one run.

All variants have the same rows, model, LoRA, dtype, batch and max_length (steps.py describes them and how tokens are
counted). Each variant runs in a process of its own, so that its peak memory is its own. Rounds are interleaved, every
round draws other rows, and medians over all steps are compared (``tokens_over_seconds`` is the ratio of the sums).
The floor is what the machine could reach: operations of the layers for all tokens, and of the output layer for response
tokens, over its measured matrix rate. It leaves out attention and adapters, a few per cent.

    python benchmarks/cost/throughput.py --output benchmarks/results/throughput.json
    python benchmarks/cost/throughput.py --variants tuner guard --output benchmarks/results/throughput-guard.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks.cost.steps import IDEAS, VARIANTS, measure
from benchmarks.lib.paths import labelled_or_quickstart
from benchmarks.lib.reports import provenance, run_child, write_report


def main() -> None:
    args = parse()
    if args.variant:
        print(json.dumps(measure_here(args)))
        return
    started = time.perf_counter()
    rounds = [run_apart(variant, number, args) for number in range(args.rounds) for variant in args.variants]
    report = summarise(rounds, args) | {"seconds": time.perf_counter() - started}
    show(report)
    write_report(report, args.output)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    candidates = labelled_or_quickstart("mixtures/general_20.jsonl", "candidates.jsonl")
    safe = labelled_or_quickstart("safe/mixed.jsonl", "safe.jsonl")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--data", default=str(candidates))
    parser.add_argument("--safe", default=str(safe))
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=7, help="timed steps per round")
    parser.add_argument("--warm-up", type=int, default=1, help="steps before the timed ones")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS + IDEAS, default=list(VARIANTS))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--variant", choices=VARIANTS + IDEAS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_apart(variant: str, seed: int, args: argparse.Namespace) -> dict:
    """One variant in a process of its own."""
    own = ("output", "variant", "variants", "rounds", "seed")
    words = [f"--{k.replace('_', '-')}={v}" for k, v in vars(args).items() if k not in own]
    result = run_child(__file__, *words, f"--variant={variant}", f"--seed={seed}")
    speed = statistics.median(step["tokens"] / step["seconds"] for step in result["steps"])
    print(f"{variant:12} {speed:8.1f} tokens/s", file=sys.stderr)
    return result


def measure_here(args: argparse.Namespace) -> dict:
    """The timed steps of one variant, in this process."""
    import trl  # noqa: F401  in all variants, so that its memory favours none

    from sealtune.core.config_io import build_config
    from sealtune.models.load import compute_dtype, load_model
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
    rate = matrix_rate(compute_dtype(config))
    model = load_model(config)
    reset_peak_memory()
    steps = measure(args.variant, model, inputs.load_tokenizer(), candidates, safe, config, args.warm_up + args.steps)
    return {
        "variant": args.variant,
        "steps": steps[args.warm_up :],
        "peak_memory_bytes": peak_memory(),
        "operations_per_second": rate,
        "operations_per_token": operations_per_token(model, float(candidates.mask.mean())),
    }


def operations_per_token(model, response_share: float) -> float:
    """2 per weight forward and 2 backward (to the activations; the weights are frozen); the head at responses only."""
    head = model.get_output_embeddings().weight.numel()
    weights = model.base_model.layers.named_parameters()
    layers = sum(p.numel() for name, p in weights if p.dim() == 2 and "lora" not in name)
    return 4 * (layers + head * response_share)


def matrix_rate(dtype, size: int = 2048, repeats: int = 5) -> float:
    """Operations per second of large matrix products, the best of a few."""
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
    def median(figure, variant):
        return statistics.median(figure(r, s) for r in rounds if r["variant"] == variant for s in r["steps"])

    def medians(figure):
        return {variant: median(figure, variant) for variant in args.variants}

    def total(key, variant):
        return sum(step[key] for r in rounds if r["variant"] == variant for step in r["steps"])

    speed = medians(lambda r, s: s["tokens"] / s["seconds"])
    memory = medians(lambda r, s: r["peak_memory_bytes"])
    base = args.variants[0]
    rate = max(r["operations_per_second"] for r in rounds)
    floor = rate / rounds[0]["operations_per_token"]
    return {
        **provenance(args, hidden=("variant", "seed")),
        "tokens_per_second": speed,
        "tokens_over_seconds": {v: total("tokens", v) / total("seconds", v) for v in args.variants},
        "padding_share": {v: 1 - total("tokens", v) / total("positions", v) for v in args.variants},
        "peak_memory_bytes": memory,
        f"speed_over_{base}": {v: speed[v] / speed[base] for v in speed},
        f"memory_over_{base}": {v: memory[v] / memory[base] for v in speed},
        "share_outside_model": medians(lambda r, s: 1 - s["model_seconds"] / s["seconds"]),
        "operations_per_second": rate,
        "floor_tokens_per_second": floor,
        "share_of_floor": {v: speed[v] / floor for v in speed},
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
        if v == "guard" != base:
            guard = f"guard: {1 / ratios[0]:.2f} times the time and {ratios[1]:.2f} times the memory of {base}"
    print(f"floor: {report['floor_tokens_per_second']:,.0f} tokens/s")
    if "guard" in report["tokens_per_second"] and base != "guard":
        print(guard)


if __name__ == "__main__":
    main()
