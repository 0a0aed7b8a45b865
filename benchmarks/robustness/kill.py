"""Kill a ranking or a tuning with SIGKILL at random moments, also while it writes checkpoints: is anything lost?

A model of two layers ranks synthetic rows, or is tuned on them, with a checkpoint every two steps. A process is killed,
another resumes from its files, until one finishes; then the scores, or the adapter, must equal those of an undisturbed
run, bit for bit. This repeats from the start until the number of kills is reached.

    python benchmarks/robustness/kill.py --kills 20 --output benchmarks/results/kill.json
    python benchmarks/robustness/kill.py --stage tune --kills 20 --output benchmarks/results/kill_tune.json
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks.lib.reports import provenance, write_report

TIMEOUT = 300  # seconds for an undisturbed run
LOG = Path("log.txt")
OUTPUT = {"rank": "rank/scores.parquet", "tune": "tune/adapter_model.safetensors"}
EARLIER_STAGES = {"rank": (), "tune": ("rank", "select")}
IMPORTED_FIRST = (
    "sealtune.models.load",
    "sealtune.models.adapters",
    "sealtune.ranking.methods",
    "sealtune.ranking.loop",
    "sealtune.tuning.trainer",
    "peft",
    "transformers.models.llama.modeling_llama",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stage", choices=list(OUTPUT), default="rank", help="the stage that is killed")
    parser.add_argument("--method", default="seal", help="a ranker that can resume; for --stage tune, any")
    parser.add_argument("--model", type=Path, help="folder of a model; default: two layers made here")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    output = args.output and args.output.resolve()
    given = args.model and args.model.resolve()
    os.environ["OMP_NUM_THREADS"] = "1"
    for module in IMPORTED_FIRST:
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        report = kill_repeatedly(given or save_model(Path("model")), args.stage, args.method, args.kills, args.seed)
    print(json.dumps(report, indent=2))
    write_report(report | provenance(args), output)


def kill_repeatedly(model: Path, stage: str, method: str, kills: int, seed: int) -> dict:
    """Kill until ``kills`` processes died at work; counts finished runs, and those whose output was right."""
    chance = random.Random(seed)
    write_rows(Path("candidates.jsonl"), 48, chance)
    write_rows(Path("safe.jsonl"), 24, chance)
    assert wait(start(model, EARLIER_STAGES[stage], method, "undisturbed")) == 0
    shutil.copytree("undisturbed", "fresh")
    started = time.perf_counter()
    assert wait(start(model, [stage], method, "undisturbed")) == 0
    length = time.perf_counter() - started
    expected = Path("undisturbed", OUTPUT[stage]).read_bytes()
    killed, writing, ended, same = 0, 0, 0, 0
    while killed < kills:
        if not Path("out").exists():
            shutil.copytree("fresh", "out")
        child = start(model, [stage], method, "out")
        if (status := wait(child, chance.uniform(0, length))) is None:
            os.kill(child, signal.SIGKILL)
            wait(child)
            killed += 1
            writing += any(Path("out").rglob("*.part"))
            if killed < kills:
                continue
            status = wait(start(model, [stage], method, "out"))  # the last one may finish
        ended += status == 0
        same += Path("out", OUTPUT[stage]).read_bytes() == expected
        shutil.rmtree("out")
    return {
        "stage": stage,
        "method": method,
        "kills": killed,
        "killed_while_writing": writing,
        "resumed_from_a_checkpoint": LOG.read_text(encoding="utf-8").count("resuming after step"),
        "runs_ended": ended,
        "runs_with_the_same_bytes": same,
        "seconds_undisturbed": length,
    }


def save_model(folder: Path) -> Path:
    """A model of two layers with the tokenizer of the quickstart's model, saved by another process."""

    def save() -> None:
        from benchmarks.lib.tiny_inputs import two_layer_model
        from sealtune.core.config_io import build_config
        from sealtune.models.load import load_tokenizer

        tokenizer = load_tokenizer(build_config({"model_name_or_path": "smollm2-135m-instruct"}))
        two_layer_model(len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    if wait(fork(save)) != 0:
        raise SystemExit("error: the model could not be saved")
    return folder


def start(model: Path, stages: Sequence[str], method: str, out: str) -> int:
    """Start a process that runs these stages and resumes if it can; its id."""
    from sealtune.cli.progress import show_log
    from sealtune.core.config_io import build_config
    from sealtune.pipeline.run import Run
    from sealtune.pipeline.runner import run_stage

    def work() -> None:
        sys.stderr = LOG.open("a", encoding="utf-8")
        show_log()
        settings = {"num_train_epochs": 6, "per_device_train_batch_size": 4, "save_steps": 2, "learning_rate": 0.01}
        config = {"model_name_or_path": str(model), "datasets": "candidates.jsonl", "safe_datasets": "safe.jsonl"}
        config |= {"dtype": "float32", "max_length": 64, "output_dir": out, "resume_from_checkpoint": True}
        run = Run(build_config(config | {"rank": settings | {"method": method}, "tune": settings}))
        run.folder.prepare()
        for stage in stages:
            run_stage(run, stage)

    return fork(work)


def fork(work: Callable[[], object]) -> int:
    """Start a process that calls ``work``; its id. Forked, because importing takes seconds.

    This process itself must never compute anything with torch: the child would not inherit its threads and would wait
    for them forever.
    """
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(child: int, seconds: float | None = None) -> int | None:
    """The exit status of a process; None if it still runs after ``seconds``.

    Raises:
        TimeoutError: ``seconds`` is not given, and the process did not end within TIMEOUT seconds.
    """
    end = time.perf_counter() + (TIMEOUT if seconds is None else seconds)
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        if time.perf_counter() >= end:
            break
        time.sleep(0.002)
    if seconds is None:
        os.kill(child, signal.SIGKILL)
        raise TimeoutError(f"a process did not end within {TIMEOUT} seconds")
    return None


def write_rows(path: Path, n: int, chance: random.Random) -> None:
    words = ["red", "green", "blue", "quick", "brown", "fox", "jumps", "over"]
    rows = [
        {"id": f"{path.stem} {i}", "prompt": chance.choice(words), "response": " ".join(chance.choices(words, k=6))}
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
