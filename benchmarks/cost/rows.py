"""More rows than fit in memory: what each stage needs to load, tokenize, rank and select short rows.

Synthetic rows in a JSONL file, a model of two layers and a small tokenizer, all in a temporary folder. Each stage runs
in a process of its own, as the commands do. ``memory`` is the peak of the process's physical memory (including the
touched pages of mapped files) above its level after the model was loaded; ``allocated`` leaves out mapped files.
Ranking stops after a few steps; the scores that ``select`` reads are random.

    OMP_NUM_THREADS=1 python benchmarks/cost/rows.py --rows 1000000 --output benchmarks/results/rows.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks.lib.process_memory import current_memory, peak_memory
from benchmarks.lib.reports import provenance, run_child, write_report
from benchmarks.lib.tiny_inputs import WORDS, save_model

STAGES = ("load", "tokenize", "rank", "select")
SAFE_ROWS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[10**5, 10**6])
    parser.add_argument("--steps", type=int, default=20, help="steps of ranking")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="parent of the temporary folder")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        print(json.dumps(run_here(args.stage, args)))
        return
    found = []
    for n in args.rows:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            found.append(measure(n, Path(folder)))
        write_report(summarise(found, args), args.output)  # after every size: the next may take hours


def measure(n: int, folder: Path) -> dict:
    """All stages over n rows."""
    write_rows(folder / "candidates.jsonl", n, seed=1)
    write_rows(folder / "safe.jsonl", SAFE_ROWS, seed=2)
    run_apart("model", folder)
    stages = {name: run_apart(name, folder) for name in STAGES}
    for name, facts in stages.items():
        facts["rows_per_second"] = facts["rows"] / facts["seconds"]
        print(
            f"{n:>12,} rows  {name:8}  {facts['rows_per_second']:>12,.0f} rows/s  "
            f"{facts['memory_bytes'] / 2**20:>8,.0f} MiB  {facts['allocated_bytes'] / 2**20:>8,.0f} MiB allocated",
            flush=True,
        )
    sizes = {str(p.relative_to(folder)): bytes_of(p) for p in (folder / "candidates.jsonl", *folder.glob("out/*"))}
    print(f"{n:>12,} rows  on disk  " + "  ".join(f"{k} {v / 2**20:,.0f} MiB" for k, v in sizes.items()), flush=True)
    return {"rows": n, "stages": stages, "disk_bytes": sizes}


def run_apart(stage: str, folder: Path) -> dict:
    """One stage in a process of its own."""
    return run_child(__file__, *sys.argv[1:], "--stage", stage, "--folder", folder)


def summarise(found: list[dict], args: argparse.Namespace) -> dict:
    most = max(facts["memory_bytes"] for row in found for facts in row["stages"].values())
    return {"by_rows": found, "most_memory_bytes": most, "safe_rows": SAFE_ROWS, **provenance(args, hidden=("stage",))}


def write_rows(path: Path, n: int, seed: int) -> None:
    """Short rows; every second one has an id of its own, and a few are duplicates."""
    chance = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            prompt, response = (" ".join(chance.choices(WORDS, k=chance.randint(3, 8))) for _ in range(2))
            row = {"id": f"{seed}-{i}"} if i % 2 else {}
            file.write(json.dumps(row | {"prompt": prompt, "response": response}) + "\n")


def run_here(stage: str, args: argparse.Namespace) -> dict:
    """One stage, in the temporary folder."""
    import torch

    from sealtune.core.config_io import build_config
    from sealtune.pipeline.run import Run

    torch.set_num_threads(1)
    os.chdir(args.folder)
    if stage == "model":
        save_model(Path("model"))
        return {}
    block = {"method": "seal", "per_device_train_batch_size": args.batch}
    data = {"datasets": ["candidates.jsonl"], "safe_datasets": ["safe.jsonl"], "output_dir": "out"}
    model_values = {"model_name_or_path": "model", "dtype": "float32", "max_length": 64}
    run = Run(build_config(model_values | data | {"rank": block}))
    model = run.load_model()
    run.inputs.load_tokenizer()
    before, started = current_memory(), time.perf_counter()
    with peak_memory(interval=0.01) as peak:
        rows = DO[stage](run, model, args)
    found = {"rows": rows, "seconds": time.perf_counter() - started}
    found |= {f"{name}_bytes": max(0, peak[name] - size) for name, size in before.items()}
    if stage == "rank":
        write_random_scores(run)
    return found


def load(run, model, args) -> int:
    rows = run.inputs.load_rows()
    return len(rows.samples) + len(rows.drops)


def tokenize(run, model, args) -> int:
    return len(run.inputs.load_candidates().encoded)


def rank(run, model, args) -> int:
    """A few steps of SEAL; returns the rows of their batches, so that the rate is that of single steps."""
    from sealtune.core.console import track
    from sealtune.ranking import methods
    from sealtune.ranking.job import Job

    class EnoughSteps(Exception):  # noqa: N818 - not an error
        pass

    with track("rank") as advance:

        def on_step(record, total, state_dict) -> None:
            advance(record.step, total, record.rows, record.tokens)
            if record.step >= args.steps:
                raise EnoughSteps

        candidates, safe = run.inputs.load_ranking_candidates(), run.inputs.load_safe().encoded
        with suppress(EnoughSteps):
            methods.rank(Job(candidates, safe, run.config, lambda full: model, on_step))
    return args.steps * args.batch


def select(run, model, args) -> int:
    from sealtune.pipeline.runner import run_stage

    run_stage(run, "select")
    return len(run.folder.read_scores())


DO: dict[str, Callable] = {"load": load, "tokenize": tokenize, "rank": rank, "select": select}


def write_random_scores(run) -> None:
    """The files of a finished ranking, with random scores."""
    import numpy as np

    from sealtune.core.types import Scores
    from sealtune.pipeline.stages import rank

    rows = run.inputs.load_ranking_candidates()
    scores = Scores.unweighted(rows.ids, rows.source, np.random.default_rng(0).random(len(rows)))
    run.folder.write_scores(scores, run.inputs.load_rows().positions(scores.ids))
    facts = {"seconds": 0.0, "rows": len(scores)}
    run.folder.finish_stage("rank", rank.depends_on(run), ["rank/scores.parquet"], facts, {})


def bytes_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


if __name__ == "__main__":
    main()
