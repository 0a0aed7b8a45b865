"""Speed, model FLOPs utilisation and memory of ranking on a GPU: Llama-3-8B's architecture with random weights.

Nothing is downloaded: the cost of a step does not depend on the values of the weights. Rows are random tokens of
log-normal length. Variants are those of steps.py; each runs in a process of its own, with and without gradient
checkpointing. A model FLOP counts once however often it is computed, so recomputation in checkpoints does not raise the
utilisation; attention and adapters are not counted at all.
``--profile`` adds the kernels that take the most time in a step of Algorithm 2.

    python benchmarks/cost/gpu.py --output benchmarks/results/gpu.json --profile
    python benchmarks/cost/gpu.py --tiny --steps 1     # two layers, on any machine: does it run?
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks.cost.steps import VARIANTS, measure
from benchmarks.cost.throughput import operations_per_token
from benchmarks.lib.reports import provenance, write_report

LLAMA_3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 8192,
    "rope_theta": 500_000.0,
}
TINY = LLAMA_3_8B | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2}
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}
"""Dense bfloat16 operations per second, as stated by the vendors."""


def main() -> None:
    args = parse()
    if args.one:
        print(json.dumps(measure_here(args, args.one[0], args.one[1] == "1", args.one[2] == "profile")))
        return
    found = [run_apart(variant, on) for on in args.checkpointing for variant in args.variants]
    report = {"runs": found, **provenance(args, hidden=("one",))}
    if args.profile:  # not in the timed runs
        report["kernels"] = run_apart("algorithm_2", args.checkpointing[0], "profile").get("kernels")
    print(json.dumps(report, indent=2))
    write_report(report, args.output)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--median-length", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="timed steps, after one to warm up")
    parser.add_argument("--attention", default="sdpa", help="sdpa, flash_attention_2, eager")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--checkpointing", nargs="+", type=int, choices=(0, 1), default=[0, 1])
    parser.add_argument("--tiny", action="store_true", help="two small layers in place of the 8B model")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_apart(variant: str, checkpointing: int, purpose: str = "time") -> dict:
    """One variant in a process of its own. If it fails, for lack of memory perhaps, its error is reported."""
    command = [sys.executable, __file__, *sys.argv[1:], "--one", variant, str(checkpointing), purpose]
    done = subprocess.run(command, capture_output=True, text=True)
    where = {"variant": variant, "gradient_checkpointing": bool(checkpointing)}
    if done.returncode:
        error = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{where}: {error}", file=sys.stderr)
        return where | {"error": error}
    result = where | json.loads(done.stdout.splitlines()[-1])
    print(f"{where}: {result['tokens_per_second']:,.0f} tokens/s", file=sys.stderr)
    return result


def measure_here(args: argparse.Namespace, variant: str, checkpointing: bool, profile: bool) -> dict:
    """One variant, in this process."""
    import torch

    from sealtune.core.config_io import build_config
    from sealtune.models.load import load_tokenizer
    from sealtune.pipeline.environment import peak_memory, reset_peak_memory

    block = {"per_device_train_batch_size": args.batch, "gradient_checkpointing": checkpointing}
    ranked = {"gamma": 0.5, "gamma_schedule": "constant", "algorithm": 1 if variant == "algorithm_1" else 2}
    values = {"model_name_or_path": "smollm2-135m-instruct", "datasets": "random", "safe_datasets": "random"}
    config = build_config(values | {"rank": block | ranked, "tune": block})
    model = random_model(TINY if args.tiny else LLAMA_3_8B, args.attention)
    vocabulary = model.config.vocab_size
    candidates, safe = (random_rows(args, vocabulary, seed) for seed in (0, 1))
    tokenizer = load_tokenizer(config)  # for its padding token only
    reset_peak_memory()
    with torch.profiler.profile() if profile else nullcontext() as prof:
        steps = measure(variant, model, tokenizer, candidates, safe, config, args.steps + 1)[1:]
    operations = operations_per_token(model, float(candidates.mask.mean()))
    speed = statistics.median(step["tokens"] / step["seconds"] for step in steps)
    peak = peak_rate()
    return {
        "tokens_per_second": speed,
        "seconds_per_step": statistics.median(step["seconds"] for step in steps),
        "model_flops_utilisation": speed * operations / peak if peak else None,
        "peak_memory_bytes": peak_memory(),
        "padding_share": statistics.median(1 - step["tokens"] / step["positions"] for step in steps),
        "kernels": kernels(prof) if prof else None,
    }


def random_model(sizes: dict, attention: str):
    """The architecture with random weights, in bfloat16, created on the device."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from sealtune.models.load import device

    config = LlamaConfig(**sizes, attn_implementation=attention, use_cache=False)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device()):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return model.eval()


def random_rows(args: argparse.Namespace, vocabulary: int, seed: int):
    """Rows of random tokens; the second half of each row is its response."""
    import numpy as np

    from sealtune.data.encoded import Encoded

    random = np.random.default_rng(seed)
    lengths = np.clip(random.lognormal(np.log(args.median_length), 0.7, args.rows), 8, args.max_length).astype(int)
    parts = [(random.integers(3, vocabulary, n).astype(np.int32), np.arange(n) >= n // 2) for n in lengths]
    return Encoded.join([f"row-{i}" for i in range(args.rows)], ["random"] * args.rows, parts)


def peak_rate() -> float | None:
    """Operations per second of this GPU, as its vendor states; None if it is not in the table."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((rate for known, rate in PEAK.items() if known in name), None)


def kernels(prof, limit: int = 15) -> list[dict]:
    """The kernels of the profiled steps by their share of the time, largest first."""
    import torch

    where = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    averages = sorted(prof.key_averages(), key=lambda event: -getattr(event, where))
    total = sum(getattr(event, where) for event in averages) or 1
    return [{"name": e.key[:80], "share": getattr(e, where) / total, "calls": e.count} for e in averages[:limit]]


if __name__ == "__main__":
    main()
