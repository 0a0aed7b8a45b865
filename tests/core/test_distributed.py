"""Several processes rank and tune like one: the same rows, scores and losses; also after one process dies."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.torch import load_file

from helpers import rank_in_processes
from helpers.forked import Job
from helpers.processes import pretend
from helpers.rows import made_rows, write_jsonl
from sealtune.core import distributed

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ZERO3 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
METHODS = {
    "seal": {"method": "seal", "algorithm": 1, "num_train_epochs": 2},
    "accumulated": {"method": "seal", "gradient_accumulation_steps": 3, "safe_batch_size": 1},
    "checkpointed": {"method": "seal", "algorithm": 1, "gradient_checkpointing": True},
    "seal_released": {"method": "seal_released", "num_train_epochs": 2},
    "probe": {"method": "probe"},
    "excess_loss": {"method": "excess_loss"},
    "loss": {"method": "loss"},
    "gradient": {"method": "gradient"},
}
FULL = {"full": {"method": "seal", "use_peft": False, "learning_rate": 1e-3}}


def environment():
    folder = Path(__file__).parents[1]
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder), "ACCELERATE_USE_CPU": "true"}


def forked(*words, variables=(), processes=2):
    return Job(words, {"ACCELERATE_USE_CPU": "true", **dict(variables)}, processes)


def torchrun(*words, variables=()):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *words]
    where = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment() | dict(variables), **where)


@pytest.fixture(scope="module")
def in_two_processes(tmp_path_factory):
    """The scores of two processes by method and engine; all in one launch, which takes seconds."""
    folder = tmp_path_factory.mktemp("processes")
    jobs = [
        {"name": f"{method}-{engine}", "config": {"learning_rate": 0.01, **config}, "environment": variables}
        for engine, variables in (("ddp", {}), ("fsdp2", FSDP))
        for method, config in METHODS.items()
    ]
    jobs.append({"name": "seal-zero3", "config": {"learning_rate": 0.01, **METHODS["seal"]}, "environment": ZERO3})
    jobs.append({"name": "full-ddp", "config": FULL["full"], "environment": {}})
    for job in jobs:
        job["config"]["per_device_train_batch_size"] = 4
    (folder / "jobs.json").write_text(json.dumps(jobs))
    process = forked(rank_in_processes.__file__, str(folder))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return lambda name: json.loads((folder / f"{name}.json").read_text())


@pytest.mark.parametrize("method", METHODS | FULL)
def test_two_processes_rank_like_one_with_the_same_total_batch_size(method, in_two_processes):
    config = {"learning_rate": 0.01, **(METHODS | FULL)[method], "per_device_train_batch_size": 8}
    alone = rank_in_processes.rank(config)
    for engine in ("ddp", "fsdp2") if method in METHODS else ("ddp",):
        found = in_two_processes(f"{method}-{engine}")
        assert found["ids"] == alone["ids"]
        assert found["visits"] == alone["visits"]
        for name in ("score", "weight", "loss", "gap"):
            np.testing.assert_allclose(found[name], alone[name], rtol=1e-4, atol=2e-6, err_msg=f"{engine} {name}")


def test_a_sharded_base_is_stored_once_by_all_processes(in_two_processes):
    assert in_two_processes("seal-ddp")["held"] == 1
    assert in_two_processes("seal-fsdp2")["held"] == pytest.approx(0.5, abs=0.05)
    assert in_two_processes("seal-zero3")["held"] == pytest.approx(0.5, abs=0.05)
    assert in_two_processes("seal-zero3")["score"] == in_two_processes("seal-fsdp2")["score"]


@pytest.fixture
def rows(tmp_path, tiny_folder):
    """A folder with a config that ranks for some seconds and saves a checkpoint every three steps."""
    write_jsonl(tmp_path / "candidates.jsonl", made_rows(150, 1))
    write_jsonl(tmp_path / "safe.jsonl", made_rows(16, 2))
    rank = {"method": "seal", "num_train_epochs": 6, "learning_rate": 0.01, "save_steps": 3}
    config = {"model_name_or_path": str(tiny_folder), "dtype": "float32", "rank": rank}
    config |= {"datasets": [str(tmp_path / "candidates.jsonl")], "safe_datasets": [str(tmp_path / "safe.jsonl")]}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    return tmp_path


def rank_in_two_processes(folder, out, *words, start=forked):
    return start("-m", "sealtune", "rank", str(folder / "config.yaml"), f"output_dir={folder / out}", *words)


def scores_of(folder):
    from sealtune.pipeline.folder import RunFolder

    return RunFolder(folder).read_scores()


def wait_for(pattern, folder, process):
    end = time.monotonic() + 120
    while not list(folder.glob(pattern)):
        assert process.poll() is None and time.monotonic() < end, "no such file"
        time.sleep(0.02)


@pytest.mark.slow
def test_if_one_process_dies_all_end_and_any_number_resumes(rows):
    reference = rank_in_two_processes(rows, "reference")
    output, _ = reference.communicate(timeout=200)
    assert reference.returncode == 0, output
    broken = rank_in_two_processes(rows, "out", start=torchrun)
    wait_for("rank/checkpoint-*", rows / "out", broken)
    second = next(p for p in psutil.Process(broken.pid).children() if p.environ().get("RANK") == "1")
    second.kill()
    died = time.monotonic()
    output, _ = broken.communicate(timeout=60)
    assert broken.returncode != 0
    assert time.monotonic() - died < 60
    assert "error: another process of this run has ended; resume with resume_from_checkpoint=true" in output
    words = [str(rows / "config.yaml"), f"output_dir={rows / 'out'}", "resume_from_checkpoint=true"]
    before = {path.name for path in (rows / "out/rank").glob("checkpoint-*")}
    alone = forked("-m", "sealtune", "rank", *words, processes=1)
    while {path.name for path in (rows / "out/rank").glob("checkpoint-*")} <= before:
        assert alone.poll() is None, alone.output()
        time.sleep(0.02)
    alone.send_signal(signal.SIGTERM)
    output, _ = alone.communicate(timeout=100)
    assert alone.returncode == 143 and "resuming after step" in output
    output, _ = (process := rank_in_two_processes(rows, "out", "resume_from_checkpoint=true")).communicate(timeout=200)
    assert process.returncode == 0 and "resuming after step" in output, output
    expected, found = scores_of(rows / "reference"), scores_of(rows / "out")
    assert found.ids == expected.ids
    assert found.visits.tolist() == expected.visits.tolist() == [6] * 150
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_only_the_main_process_loads_a_sharded_base(rows):
    reference = rank_in_two_processes(rows, "reference", "rank.num_train_epochs=1")
    output, _ = reference.communicate(timeout=200)
    assert reference.returncode == 0, output
    settings = [str(rows / "config.yaml"), f"output_dir={rows / 'out'}", "rank.num_train_epochs=1"]
    script = Path(rank_in_processes.__file__).with_name("rank_and_report_loads.py")
    sharded = forked(str(script), *settings, variables=FSDP)
    output, _ = sharded.communicate(timeout=200)
    assert sharded.returncode == 0, output
    assert "process 0 loaded a model" in output and "process 1 loaded a model" not in output
    expected, found = scores_of(rows / "reference"), scores_of(rows / "out")
    assert found.ids == expected.ids
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)


@pytest.mark.slow
def test_sigterm_stops_all_processes_after_the_same_step(rows):
    """A scheduler signals every process of a job, and the launcher forwards the signal once more."""
    process = rank_in_two_processes(rows, "out", start=torchrun)
    wait_for("rank/checkpoint-*", rows / "out", process)
    for one in (*psutil.Process(process.pid).children(), process):
        one.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert "a checkpoint was saved; resume with resume_from_checkpoint=true" in output
    assert process.returncode != 0
    assert list((rows / "out/rank").glob("checkpoint-*"))


def test_all_stages_run_in_two_processes(rows):
    settings = ["rank.num_train_epochs=1", "tune.num_train_epochs=2", "tune.learning_rate=0.02", "tune.save_steps=6"]
    (rows / "ask.jsonl").write_text('{"prompt": "red"}\n')
    prompts = json.dumps([{"path": str(rows / "ask.jsonl"), "kind": "harmful"}])
    config, out = str(rows / "config.yaml"), f"output_dir={rows / 'out'}"
    words = [config, out, *settings, f"evaluate.prompts={prompts}", "evaluate.max_new_tokens=2"]
    process = torchrun("-m", "sealtune", "run", *words)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    manifest = json.loads((rows / "out/manifest.json").read_text())
    assert list(manifest["stages"]) == ["rank", "select", "tune", "evaluate", "report"]
    log = [json.loads(line) for line in (rows / "out/tune/log.jsonl").read_text().splitlines()]
    assert len(log) == 2 * -(-120 // 16)  # eight rows per process and step
    assert log[-1]["loss"] < log[0]["loss"] - 0.02
    card = (rows / "out/tune/README.md").read_text()
    assert "| steps | 16 |\n| epochs | 2 |\n| rows per step (all processes) | 16 |" in card
    results = json.loads((rows / "out/evaluate/results.json").read_text())
    before, after = (row["value"] for row in results if row["measure"] == "loss")
    assert after < before
    # Not forked: the process that is forked ships fewer prompts.
    again = subprocess.run(
        [sys.executable, "-m", "sealtune", "run", *words], env=environment(), capture_output=True, text=True
    )
    assert again.stderr.count("finished before from the same inputs; skipped") == 5, again.stderr


@pytest.fixture
def selected(rows):
    """A function that tunes a copy of a selected run in two processes."""
    words = [str(rows / "config.yaml"), "rank.method=random"]
    for verb in ("rank", "select"):
        output, _ = (
            process := forked("-m", "sealtune", verb, *words, f"output_dir={rows / 'out'}", processes=1)
        ).communicate(timeout=100)
        assert process.returncode == 0, output
    words += ["tune.learning_rate=0.02", "tune.num_train_epochs=2", "tune.save_steps=3"]

    def tune(name, variables, *settings):
        shutil.copytree(rows / "out", rows / name, dirs_exist_ok=True)
        return forked("-m", "sealtune", "tune", *words, f"output_dir={rows / name}", *settings, variables=variables)

    return tune


def tuned(folder):
    log = [json.loads(line) for line in (folder / "tune/log.jsonl").read_text().splitlines()]
    return [record["loss"] for record in log], load_file(*(folder / "tune").glob("*model.safetensors"))


@pytest.mark.parametrize("settings", [[], ["tune.gradient_checkpointing=true", "tune.gradient_accumulation_steps=2"]])
def test_an_adapter_is_tuned_equally_on_a_sharded_base(selected, rows, settings):
    for name, variables in (("ddp", {}), ("fsdp", FSDP)):
        output, _ = (process := selected(name, variables, *settings)).communicate(timeout=200)
        assert process.returncode == 0, output
    (losses, weights), (same, others) = (tuned(rows / name) for name in ("ddp", "fsdp"))
    assert losses[-1] < losses[0] - 0.02
    np.testing.assert_allclose(losses, same, rtol=1e-4)
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        np.testing.assert_allclose(weight, others[name], atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_tuning_resumes_with_fewer_processes(selected, rows):
    """It resumes in the second epoch, whose rows are in the same order."""
    process = selected("stopped", {})
    wait_for("tuning/checkpoint-9", rows / "stopped", process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    words = ["rank.method=random", "tune.learning_rate=0.02", "tune.num_train_epochs=2", "tune.save_steps=3"]
    words = [str(rows / "config.yaml"), *words, f"output_dir={rows / 'stopped'}", "resume_from_checkpoint=true"]
    output, _ = (process := forked("-m", "sealtune", "tune", *words, processes=1)).communicate(timeout=100)
    assert process.returncode == 0, output
    assert "resuming after step" in output
    output, _ = (process := selected("reference", {})).communicate(timeout=200)
    assert process.returncode == 0, output
    (losses, _), (same, _) = (tuned(rows / name) for name in ("stopped", "reference"))
    assert len(losses) == len(same) == 2 * 8
    np.testing.assert_allclose(losses[:-1], same[:-1], rtol=1e-4)  # two processes pad the last step with rows


@pytest.mark.slow
def test_tuning_on_a_sharded_base_resumes_and_merges(selected, rows, tiny_folder):
    process = selected("stopped", FSDP)
    wait_for("tuning/checkpoint-*", rows / "stopped", process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert "a checkpoint was saved; resume with resume_from_checkpoint=true" in output
    for name, settings in (
        ("stopped", ["resume_from_checkpoint=true"]),
        ("reference", []),
        ("merged", ["tune.merge=true"]),
    ):
        output, _ = (process := selected(name, FSDP, *settings)).communicate(timeout=200)
        assert process.returncode == 0, output
    (losses, weights), (same, others) = (tuned(rows / name) for name in ("stopped", "reference"))
    np.testing.assert_allclose(losses, same, rtol=1e-5)
    for name, weight in weights.items():
        np.testing.assert_allclose(weight, others[name], atol=1e-5, err_msg=name)
    _, merged = tuned(rows / "merged")
    assert all(weight.isfinite().all() and weight.numel() for weight in merged.values())
    base = load_file(tiny_folder / "model.safetensors")
    changed = {name for name, weight in merged.items() if not weight.equal(base[name])}
    assert changed and all("q_proj" in name or "v_proj" in name for name in changed)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="deepspeed is not installed")
@pytest.mark.parametrize("stage", [2, 3])
def test_tuning_under_deepspeed(selected, rows, stage):
    """The same result as under DDP; the later stages load models that are not sharded."""
    output, _ = (process := selected("ddp", {}, "tune.save_steps=500")).communicate(timeout=200)
    assert process.returncode == 0, output
    engine = {"zero_stage": stage, "zero3_init_flag": False, "zero3_save_16bit_model": stage == 3}
    settings = {"distributed_type": "DEEPSPEED", "compute_environment": "LOCAL_MACHINE", "mixed_precision": "no"}
    settings |= {"num_machines": 1, "machine_rank": 0, "num_processes": 2, "use_cpu": True, "deepspeed_config": engine}
    (rows / "zero.yaml").write_text(json.dumps(settings))
    held_out = json.dumps([str(rows / "safe.jsonl")])
    words = [str(rows / "config.yaml"), f"output_dir={rows / 'out'}", "rank.method=random"]
    words += ["tune.learning_rate=0.02", "tune.num_train_epochs=2", f"evaluate.held_out_datasets={held_out}"]
    command = [sys.executable, "-m", "sealtune", "run", *words, "--accelerate_config", str(rows / "zero.yaml")]
    variables = environment() | {"DS_ACCELERATOR": "cpu"}
    del variables["ACCELERATE_USE_CPU"]  # otherwise accelerate would not use DeepSpeed
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    (losses, weights), (same, others) = (tuned(rows / name) for name in ("out", "ddp"))
    np.testing.assert_allclose(losses, same, rtol=1e-3)
    for name, weight in weights.items():
        np.testing.assert_allclose(weight, others[name], atol=2e-3, err_msg=name)
    results = json.loads((rows / "out/evaluate/results.json").read_text())
    losses = [row["value"] for row in results if row["measure"] == "loss"]  # two datasets before tuning, two after
    assert len(losses) == 4 and losses[2] < losses[0]


@pytest.mark.slow
def test_a_user_error_is_reported_once(rows):
    process = rank_in_two_processes(rows, "out", "rank.method=sael", start=torchrun)
    output, _ = process.communicate(timeout=100)
    assert process.returncode != 0
    assert output.count("did you mean 'seal'") == 1


def test_work_of_the_main_process_only_is_not_split(monkeypatch):
    pretend(monkeypatch, 4, 2)
    assert list(distributed.split_between_processes([1, 2, 3])) == [(3, True)]
    assert list(distributed.split_between_processes([1, 2])) == [(2, False)]
    with distributed.main_process_only():
        assert list(distributed.split_between_processes([1, 2])) == [(1, True), (2, True)]
    assert (distributed.num_processes(), distributed.process_index(), distributed.is_main_process()) == (4, 2, False)
