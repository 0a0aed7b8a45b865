"""More rows than memory holds: what reading, tokenising, ranking and selecting short rows needs, stage by stage.

Made-up rows in a JSONL file, a model of two layers and a small tokenizer, all in a folder that is removed afterwards.
Each stage runs in a process of its own, as the commands do it. Its memory is the most that the process had in physical
memory (mapped files among it, as far as they were touched) beyond what it had once the model was loaded; ``allocated``
counts what it allocated alone. Ranking is stopped after some steps; the scores that ``select`` reads are drawn.

    OMP_NUM_THREADS=1 python benchmarks/rows.py --rows 1000000 --output benchmarks/results/rows.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from probe import most_memory, resident, two_layers

STAGES = ("door", "tokens", "rank", "select")
WORDS = ("red", "green", "blue", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "make", "find", "why", "how")
SAFE_ROWS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[10**5, 10**6])
    parser.add_argument("--steps", type=int, default=20, help="steps of ranking")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        print(json.dumps(work(args.stage, args)))
        return
    found = []
    for n in args.rows:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            found.append(measure(n, Path(folder)))
        if args.output:  # after each size: the next may take hours
            args.output.write_text(json.dumps(summary(found, args), indent=2) + "\n")


def measure(n: int, folder: Path) -> dict:
    """All stages over n rows."""
    write_rows(folder / "candidates.jsonl", n, seed=1)
    write_rows(folder / "safe.jsonl", SAFE_ROWS, seed=2)
    run_apart("model", folder)
    stages = {name: run_apart(name, folder) for name in STAGES}
    for name, facts in stages.items():
        facts["rows_per_second"] = facts["rows"] / facts["seconds"]
        print(
            f"{n:>12,} rows  {name:6}  {facts['rows_per_second']:>12,.0f} rows/s  "
            f"{facts['memory_bytes'] / 2**20:>8,.0f} MiB  {facts['allocated_bytes'] / 2**20:>8,.0f} MiB allocated",
            flush=True,
        )
    sizes = {str(p.relative_to(folder)): bytes_of(p) for p in (folder / "candidates.jsonl", *folder.glob("out/*"))}
    print(f"{n:>12,} rows  on disk  " + "  ".join(f"{k} {v / 2**20:,.0f} MiB" for k, v in sizes.items()), flush=True)
    return {"rows": n, "stages": stages, "disk_bytes": sizes}


def run_apart(stage: str, folder: Path) -> dict:
    command = [sys.executable, __file__, *sys.argv[1:], "--stage", stage, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def summary(found: list[dict], args: argparse.Namespace) -> dict:
    from sealtune.pipeline.environment import machine, versions

    most = max(facts["memory_bytes"] for row in found for facts in row["stages"].values())
    return {
        "command": " ".join(["python", *sys.argv]),
        "by_rows": found,
        "most_memory_bytes": most,
        "settings": {"steps": args.steps, "batch": args.batch, "safe_rows": SAFE_ROWS},
        "machine": machine(),
        "versions": versions(),
    }


def write_rows(path: Path, n: int, seed: int) -> None:
    """Short rows; every second one has an id of its own, and a few are the same as another."""
    chance = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            prompt, response = (" ".join(chance.choices(WORDS, k=chance.randint(3, 8))) for _ in range(2))
            row = {"id": f"{seed}-{i}"} if i % 2 else {}
            file.write(json.dumps(row | {"prompt": prompt, "response": response}) + "\n")


def work(stage: str, args: argparse.Namespace) -> dict:
    """One stage, in the folder of the benchmark."""
    import torch

    from sealtune.core.config_io import build_config
    from sealtune.pipeline.run import Run
    from sealtune.pipeline.runner import run_stage

    torch.set_num_threads(1)
    os.chdir(args.folder)
    if stage == "model":
        make_model(Path("model"))
        return {}
    block = {"method": "seal", "per_device_train_batch_size": args.batch}
    data = {"datasets": ["candidates.jsonl"], "safe_datasets": ["safe.jsonl"], "output_dir": "out"}
    run = Run(
        build_config({"model_name_or_path": "model", "dtype": "float32", "max_length": 64, **data, "rank": block})
    )
    model = run.load_model()
    _ = run.inputs.load_tokenizer()
    before, started = resident(), time.perf_counter()
    with most_memory(every=0.01) as memory:
        rows = DO[stage](run, model, args)
    seconds = time.perf_counter() - started
    found = {"rows": rows, "seconds": seconds}
    found |= {f"{name}_bytes": max(0, memory[name] - size) for name, size in before.items()}
    if stage == "rank":
        draw_scores(run)
    return found


def read(run, model, args) -> int:
    rows = run.inputs.load_rows()
    return len(rows.samples) + len(rows.drops)


def tokenise(run, model, args) -> int:
    return len(run.inputs.load_candidates().encoded)


def rank(run, model, args) -> int:
    """Some steps of SEAL. Rows that were met, so that the rate tells what a step costs with so many rows beside it."""
    from sealtune.core.console import track
    from sealtune.ranking import methods
    from sealtune.ranking.job import Job

    class Enough(Exception):  # noqa: N818 - no error
        pass

    with track("rank") as advance:

        def on_step(record, total, state) -> None:
            advance(record.step, total, record.rows, record.tokens)
            if record.step >= args.steps:
                raise Enough

        candidates, safe = run.inputs.load_ranking_candidates(), run.inputs.load_safe().encoded
        with suppress(Enough):
            methods.rank(Job(candidates, safe, run.config, lambda full: model, on_step))
    return args.steps * args.batch


def select(run, model, args) -> int:
    run_stage(run, "select")
    return run.folder.manifest().stages["rank"].rows


DO: dict[str, Callable] = {"door": read, "tokens": tokenise, "rank": rank, "select": select}


def draw_scores(run) -> None:
    """What a finished ranking leaves, with scores that were drawn."""
    import numpy as np

    from sealtune.core.types import Scores
    from sealtune.pipeline.stages import rank

    candidates = run.inputs.load_ranking_candidates()
    scores = Scores.unweighted(candidates, np.random.default_rng(0).random(len(candidates)))
    run.folder.write_scores(scores, run.inputs.load_rows().positions(scores.ids))
    facts = {"seconds": 0.0, "rows": len(scores)}
    run.folder.finish_stage("rank", rank.depends_on(run), ["rank/scores.parquet"], facts, {})


def make_model(folder: Path) -> None:
    """Two layers of random weights, and a tokenizer that knows the words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=alphabet, special_tokens=["<|end|>"]
    )
    backend.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>")
    two_layers(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def bytes_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


if __name__ == "__main__":
    main()
