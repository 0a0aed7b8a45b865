"""Tokens per second of answering prompts, compared with transformers' own ``generate`` at the same batch size.

``plain`` takes the prompts in their order, padded on the left. ``ours`` takes the longest first, so that a batch has
prompts of similar length. ``static`` is ours with a static cache. All are greedy and end a batch when all its answers
have ended. Tokens are those of the answers, up to their ends. Rounds are interleaved, medians are compared.

    python benchmarks/cost/generation.py --output benchmarks/results/generation.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks.lib.paths import labelled_or_quickstart
from benchmarks.lib.reports import provenance, write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    prompts = labelled_or_quickstart("prompts/alpaca_eval.jsonl", "prompts_harmless.jsonl")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--prompts", type=Path, default=prompts)
    parser.add_argument("--limit", type=int, default=48)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    medians = measure(args)
    report = {"tokens_per_second": medians, "ours_over_plain": medians["ours"] / medians["plain"]}
    print(json.dumps(report, indent=2))
    write_report(report | provenance(args), args.output)


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Median tokens per second of each way to answer."""
    from sealtune.core.config_io import build_config
    from sealtune.data.encode import encode_prompt
    from sealtune.evaluation.generate import generate
    from sealtune.models.load import load_model, load_tokenizer

    config = build_config({"model_name_or_path": args.model})
    tokenizer, model = load_tokenizer(config), load_model(config)
    lines = args.prompts.read_text(encoding="utf-8").splitlines()[: args.limit]
    prompts = [encode_prompt(tokenizer, json.loads(line)["prompt"]) for line in lines]
    size = {"max_new_tokens": args.max_new_tokens, "batch_size": args.batch}
    answers = {
        "plain": lambda: answer_in_order(model, tokenizer, prompts, **size),
        "ours": lambda: [count for _, count, _ in generate(model, prompts, tokenizer=tokenizer, **size)],
        "static": lambda: answer_with_static_cache(model, prompts, tokenizer=tokenizer, **size),
    }
    speeds: dict[str, list[float]] = {name: [] for name in answers}
    for number in range(args.rounds):
        for name, answer in sorted(answers.items(), reverse=number % 2 == 1):
            started = time.perf_counter()
            tokens = sum(answer())
            speeds[name].append(tokens / (time.perf_counter() - started))
            print(f"{name:6} {tokens} tokens, {speeds[name][-1]:.0f} tokens/s", file=sys.stderr)
    return {name: statistics.median(values) for name, values in speeds.items()}


def answer_with_static_cache(model, prompts, **settings) -> list[int]:
    """Tokens of each answer, with keys and values in memory that is allocated once per batch."""
    from sealtune.evaluation.generate import generate

    model.generation_config.cache_implementation = "static"
    try:
        return [count for _, count, _ in generate(model, prompts, **settings)]
    finally:
        model.generation_config.cache_implementation = None


def answer_in_order(model, tokenizer, prompts, *, max_new_tokens: int, batch_size: int) -> list[int]:
    """Tokens of each answer, by transformers' ``generate`` as its documentation shows it."""
    import torch

    tokenizer.padding_side = "left"
    lengths = []
    for start in range(0, len(prompts), batch_size):
        batch = tokenizer.pad({"input_ids": prompts[start : start + batch_size]}, return_tensors="pt").to(model.device)
        with torch.no_grad():
            output = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False, use_cache=True)
        for new in output[:, batch["input_ids"].shape[1] :].tolist():
            end = new.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in new else len(new)
            lengths.append(end)
    return lengths


if __name__ == "__main__":
    main()
