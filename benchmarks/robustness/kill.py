"""Kill a ranking or a tuning with SIGKILL at random moments, while it writes checkpoints too: is anything lost?

A model of two layers ranks made-up rows, or is tuned on them, with a checkpoint every two steps. A process is killed,
another goes on from what it left, until one ends well; then the scores, or the adapter, must be those of a run that
nobody disturbed, to the bit. Again from the start, until so many kills were survived.

    python benchmarks/kill.py --kills 20 --output benchmarks/results/kill.json
    python benchmarks/kill.py --stage tune --kills 20 --output benchmarks/results/kill_tune.json
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

PATIENCE = 300  # seconds for a run that nobody disturbs
MADE = {"rank": "rank/scores.parquet", "tune": "tune/adapter_model.safetensors"}
BEFORE = {"rank": (), "tune": ("rank", "select")}
SLOW_TO_IMPORT = (
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
    parser.add_argument("--stage", choices=list(MADE), default="rank", help="what is killed")
    parser.add_argument("--method", default="seal", help="a ranker that can be resumed; for --stage tune, any")
    parser.add_argument("--model", type=Path, help="folder of a model; default: two layers made here")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    output = args.output and args.output.resolve()
    given = args.model and args.model.resolve()
    os.environ["OMP_NUM_THREADS"] = "1"
    for module in SLOW_TO_IMPORT:
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        report = survive(given or tiny_model(Path("model")), args.stage, args.method, args.kills, args.seed)
    print(json.dumps(report, indent=2))
    if output:
        output.write_text(json.dumps(report, indent=2) + "\n")


def survive(model: Path, stage: str, method: str, kills: int, seed: int) -> dict:
    """Kill until ``kills`` processes died at work; tells how many runs ended, and whether what they made was right."""
    chance = random.Random(seed)
    write_rows(Path("candidates.jsonl"), 48, chance)
    write_rows(Path("safe.jsonl"), 24, chance)
    assert wait(start(model, BEFORE[stage], method, "whole")) == 0
    shutil.copytree("whole", "fresh")
    started = time.perf_counter()
    assert wait(start(model, [stage], method, "whole")) == 0
    length = time.perf_counter() - started
    expected = Path("whole", MADE[stage]).read_bytes()
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
            status = wait(start(model, [stage], method, "out"))  # the last one may end
        ended += status == 0
        same += Path("out", MADE[stage]).read_bytes() == expected
        shutil.rmtree("out")
    return {
        "command": " ".join(["python", *sys.argv]),
        "stage": stage,
        "method": method,
        "kills": killed,
        "killed_while_writing": writing,
        "went_on_from_a_checkpoint": Path("said").read_text(encoding="utf-8").count("resuming after step"),
        "runs_ended": ended,
        "runs_with_the_same_bytes": same,
        "seconds_undisturbed": length,
    }


def tiny_model(folder: Path) -> Path:
    """Two layers of random weights, with the tokenizer of the quickstart's model; made by another process."""

    def save() -> None:
        from probe import two_layers
        from sealtune.core.config_io import build_config
        from sealtune.models.load import load_tokenizer

        tokenizer = load_tokenizer(build_config({"model_name_or_path": "smollm2-135m-instruct"}))
        two_layers(len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    if wait(fork(save)) != 0:
        raise SystemExit("the model could not be made")
    return folder


def start(model: Path, stages: Sequence[str], method: str, out: str) -> int:
    """A process that does these stages, going on from what is there; its id."""
    from sealtune.core.config_io import build_config
    from sealtune.pipeline.run import Run
    from sealtune.pipeline.runner import run_stage

    def work() -> None:
        sys.stderr = Path("said").open("a", encoding="utf-8")  # noqa: SIM115
        settings = {"num_train_epochs": 6, "per_device_train_batch_size": 4, "save_steps": 2, "learning_rate": 0.01}
        config = {"model_name_or_path": str(model), "datasets": "candidates.jsonl", "safe_datasets": "safe.jsonl"}
        config |= {"dtype": "float32", "max_length": 64, "output_dir": out, "resume_from_checkpoint": True}
        run = Run(build_config(config | {"rank": settings | {"method": method}, "tune": settings}))
        run.folder.prepare()
        for stage in stages:
            run_stage(run, stage)

    return fork(work)


def fork(work: Callable[[], object]) -> int:
    """A process that does one thing; its id. Forked, since importing takes seconds.

    This process itself must never compute anything with torch: its threads would not be there in the child, which would
    wait for them for ever. One thread is enough for two layers.
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
    """The exit status of a process, or None where it still runs after ``seconds``.

    Raises:
        TimeoutError: no ``seconds`` were given, and it did not end within :data:`PATIENCE`.
    """
    end = time.perf_counter() + (PATIENCE if seconds is None else seconds)
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        if time.perf_counter() >= end:
            break
        time.sleep(0.002)
    if seconds is None:
        os.kill(child, signal.SIGKILL)
        raise TimeoutError(f"a process did not end within {PATIENCE} seconds")
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
