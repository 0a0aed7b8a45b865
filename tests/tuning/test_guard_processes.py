"""The guard in several processes: the weights of one process with the same rows per step, in all of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from helpers.forked import Job
from helpers.rows import made_rows, write_jsonl

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
FULL = ["tune.use_peft=false", "tune.learning_rate=0.001"]


def launch(words, variables, processes):
    """A running command, in so many processes on the CPU."""
    return Job(words, {"ACCELERATE_USE_CPU": "true", **variables}, processes)


def finish(job, code=0):
    output, _ = job.communicate(timeout=200)
    assert job.returncode == code, output
    return output


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, tiny_folder):
    """A folder with rows, a safe set, and a run whose rows are selected; and a function that tunes a copy of it."""
    folder = tmp_path_factory.mktemp("guarded")
    write_jsonl(folder / "candidates.jsonl", made_rows(64, 1))
    kinds = [("harmful", "i cannot"), ("harmless", "a quick list")]
    safe = [{"prompt": f"red or blue {i}", "response": kinds[i % 2][1], "kind": kinds[i % 2][0]} for i in range(24)]
    write_jsonl(folder / "safe.jsonl", safe)
    config = {
        "model_name_or_path": str(tiny_folder),
        "dtype": "float32",
        "datasets": [str(folder / "candidates.jsonl")],
        "safe_datasets": [str(folder / "safe.jsonl")],
        "max_length": 64,
        "rank": {"method": "random"},
        "select": {"keep_ratio": 1.0},
        "tune": {
            "guard_batch_size": 4,
            "num_train_epochs": 2,
            "learning_rate": 0.01,
            "logging_steps": 2,
            "save_steps": 3,
        },
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    for verb in ("rank", "select"):
        words = ["-m", "sealtune", verb, str(folder / "config.yaml"), f"output_dir={folder / 'selected'}"]
        finish(launch(words, {}, 1))

    def tune(name, *settings, processes=2, variables=(), rows=8):
        shutil.copytree(folder / "selected", folder / name, dirs_exist_ok=True)
        words = ["-m", "sealtune", "tune", str(folder / "config.yaml"), f"output_dir={folder / name}", *settings]
        words.append(f"tune.per_device_train_batch_size={rows // processes}")
        return launch(words, dict(variables), processes)

    return folder, tune


def tuned(folder):
    """What was logged, what was watched, and the weights."""
    log, watched = (
        [json.loads(line) for line in (folder / f"tune/{name}.jsonl").read_text().splitlines()]
        for name in ("log", "guard")
    )
    return log, watched, load_file(*(folder / "tune").glob("*model.safetensors"))


def assert_close(found, expected):
    for mine, others in zip(found[:2], expected[:2], strict=True):
        assert len(mine) == len(others)
        for record, other in zip(mine, others, strict=True):
            names = [name for name in other if not name.startswith(("train_", "num_"))]
            assert {*names} <= {*record}
            for name in names:
                assert record[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), name
    for name, weight in expected[2].items():
        np.testing.assert_allclose(found[2][name], weight, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("kind", "settings", "engines"),
    [("lora", ["tune.guard=auto"], {"ddp": {}, "fsdp": FSDP}), ("full", [*FULL, "tune.guard=teach"], {"ddp": {}})],
)
def test_two_processes_guard_a_tuning_like_one(guarded, kind, settings, engines):
    folder, tune = guarded
    finish(tune(f"{kind}-1", *settings, processes=1))
    expected = tuned(folder / f"{kind}-1")
    assert {"guard_refuse", "guard_help", "lambda_refuse", "lambda_help", "J"} <= {*expected[0][0]}
    for engine, variables in engines.items():
        finish(tune(f"{kind}-{engine}", *settings, variables=variables))
        assert_close(tuned(folder / f"{kind}-{engine}"), expected)


@pytest.mark.slow
def test_rows_are_accumulated_over_processes_and_batches(guarded):
    folder, tune = guarded
    words = ["tune.guard=teach", "tune.gradient_checkpointing=true"]
    finish(tune("accumulated-1", *words, processes=1))
    finish(tune("accumulated-2", *words, "tune.gradient_accumulation_steps=2", rows=4))
    assert_close(tuned(folder / "accumulated-2"), tuned(folder / "accumulated-1"))


@pytest.mark.slow
def test_a_stopped_guarded_tuning_in_two_processes_resumes_to_the_same_result(guarded):
    folder, tune = guarded
    words = ["tune.guard=auto", "tune.num_train_epochs=4", "tune.logging_steps=1"]
    job = tune("stopped", *words)
    end = time.monotonic() + 100
    while not list(folder.glob("stopped/tuning/checkpoint-*")):
        assert job.poll() is None and time.monotonic() < end, job.output()
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert "a checkpoint was saved; resume with" in job.communicate(timeout=60)[0]
    assert "resuming after step" in finish(tune("stopped", *words, "resume_from_checkpoint=true"))
    finish(tune("reference", *words))
    assert_close(tuned(folder / "stopped"), tuned(folder / "reference"))


@pytest.mark.slow
def test_a_sharded_full_model_is_refused_in_one_line(guarded):
    _, tune = guarded
    output = finish(tune("refused", *FULL, variables=FSDP), code=2)
    assert "error: tune.guard: not if DeepSpeed or FSDP shards the weights that are trained; set it to off" in output
    assert "Traceback" not in output


def test_all_processes_keep_the_same_step(guarded):
    folder, _ = guarded
    finish(launch([__file__, str(folder)], {}, 2))
    kept, digests = zip(*(json.loads((folder / f"process-{i}.json").read_text()) for i in range(2)), strict=True)
    assert kept == (1, 1)
    assert digests[0] == digests[1]


def tune_in_this_process(folder: Path) -> None:
    """Tune such that an early step is kept; write its number and a hash of the weights."""
    from sealtune.core.config_io import build_config
    from sealtune.models.load import load_model
    from sealtune.pipeline.guard_set import guard_rows
    from sealtune.pipeline.inputs import RunInputs
    from sealtune.tuning import guard
    from sealtune.tuning.train import train

    values = iter([0.9, 0.95, *[0.3] * 40])
    guard.gap, guard.MIN_STEPS_BETWEEN, guard.WATCHES = (lambda *_: next(values)), 1, 10
    config = build_config(json.loads((folder / "config.yaml").read_text()))
    inputs = RunInputs(config)
    rows, tokenizer = inputs.load_candidates().encoded, inputs.load_tokenizer()
    result = train(load_model(config), tokenizer, rows, config, lambda *_: None, safe=guard_rows(inputs))
    weights = b"".join(p.detach().numpy().tobytes() for p in result.model.parameters())
    found = json.dumps([result.kept_step, sha256(weights).hexdigest()])
    (folder / f"process-{os.environ['RANK']}.json").write_text(found)


if __name__ == "__main__":
    tune_in_this_process(Path(sys.argv[1]))
