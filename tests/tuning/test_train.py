"""The final fine-tuning: the loss at response tokens compared with TRL's, and resuming."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from helpers.checkpoints import forge_checkpoint
from sealtune.core.checkpoints import Checkpointer
from sealtune.core.config_io import build_config
from sealtune.core.errors import StoppedError, UserError
from sealtune.models.load import load_model
from sealtune.models.losses import token_losses
from sealtune.pipeline.inputs import RunInputs
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage
from sealtune.tuning import trainer
from sealtune.tuning.train import train
from sealtune.tuning.trainer import ResumableTrainer


def tune(config, trainer_class=None):
    inputs = RunInputs(config)
    result = train(
        load_model(config, full=not config.tune.use_peft),
        inputs.load_tokenizer(),
        inputs.load_candidates().encoded,
        config,
        lambda *_: None,
        trainer_class,
    )
    weights = {name: p.detach().clone() for name, p in result.model.named_parameters() if p.requires_grad}
    return weights, [record["loss"] for record in result.log]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("use_peft", "rate"), [(True, 0.01), (False, 0.001)])
def test_the_response_loss_trains_like_that_of_trl(project, monkeypatch, use_peft, rate, dtype):
    counts = []
    monkeypatch.setattr(trainer, "token_losses", lambda h, head, t: counts.append(len(t)) or token_losses(h, head, t))
    project["dtype"] = dtype
    project["tune"] = {
        "use_peft": use_peft,
        "learning_rate": rate,
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "logging_steps": 1,
    }
    config = build_config(project)
    ours, our_losses = tune(config)
    assert len(counts) == 12  # two batches per step, response tokens only
    assert sum(counts) < len(RunInputs(config).load_candidates().encoded.tokens) * 1.2 * 0.7
    theirs, their_losses = tune(config, ResumableTrainer)
    precision = {"float32": 1e-4, "bfloat16": 2e-2}[dtype]
    assert our_losses == pytest.approx(their_losses, rel=precision)
    assert our_losses[0] != our_losses[-1]
    if dtype == "float32":
        for name, weight in ours.items():
            torch.testing.assert_close(weight, theirs[name], rtol=1e-3, atol=1e-4)


def test_a_full_model_computes_in_the_configured_dtype(project, monkeypatch):
    autocast = []
    monkeypatch.setattr(
        trainer, "token_losses", lambda *args: autocast.append(torch.is_autocast_enabled("cpu")) or token_losses(*args)
    )
    project["dtype"] = "bfloat16"
    project["tune"] = {"use_peft": False, "learning_rate": 0.001, "max_steps": 1}
    tune(build_config(project))
    assert autocast == [True]


@pytest.mark.parametrize("reason", ["four bits", "family"])
def test_trl_computes_the_loss_of_a_model_that_cannot_be_split(project, monkeypatch, reason):
    def refuse(model):
        raise UserError("its logits are not head(body(tokens))")

    if reason == "family":
        monkeypatch.setattr(trainer, "CausalLM", refuse)
    else:
        monkeypatch.setattr(LlamaForCausalLM, "is_loaded_in_4bit", True, raising=False)
    monkeypatch.setattr(trainer, "token_losses", None)  # must not be called
    project["tune"] = {"learning_rate": 0.01, "max_steps": 2}
    _, losses = tune(build_config(project))
    assert len(losses) == 2


# -- resume ------------------------------------------------------------------------------------------------------------


def stop_after(step, monkeypatch, signal_number=signal.SIGINT):
    """Send the signal at the end of this step."""
    original = Checkpointer.should_save

    def should_save(self, current, total):
        if current == step:
            os.kill(os.getpid(), signal_number)
        return original(self, current, total)

    monkeypatch.setattr(Checkpointer, "should_save", should_save)


def run_to_tune(config, **changes):
    run = Run(build_config({**config, **changes}))
    for stage in ("rank", "select", "tune"):
        run_stage(run, stage)


def weights_and_log(folder):
    """The weights as bytes, and the log without times."""
    (weights,) = Path(folder, "tune").glob("*model.safetensors")
    log = [json.loads(line) for line in Path(folder, "tune/log.jsonl").read_text().splitlines()]
    return weights.read_bytes(), [{k: v for k, v in record.items() if not k.startswith("train_")} for record in log]


SETTINGS = [
    ({}, (4, 6)),  # after the first epoch, then during the second
    ({"gradient_accumulation_steps": 2, "per_device_train_batch_size": 3, "lora_dropout": 0.3}, (4,)),
    ({"use_peft": False, "learning_rate": 0.001, "lr_scheduler_type": "constant"}, (5,)),
    ({"max_steps": 7, "gradient_accumulation_steps": 3, "per_device_train_batch_size": 2}, (5,)),
]


@pytest.mark.parametrize(("settings", "stops"), SETTINGS)
def test_a_stopped_and_resumed_tuning_gives_the_same_bytes(project, monkeypatch, settings, stops):
    tune = {"num_train_epochs": 2, "learning_rate": 0.01, "per_device_train_batch_size": 4, "logging_steps": 1}
    project["rank"]["method"] = "random"
    project["tune"] = tune | settings
    run_to_tune(project, output_dir="uninterrupted")
    for step in stops:
        with monkeypatch.context() as patch:
            stop_after(step, patch)
            with pytest.raises(StoppedError, match=f"tune: stopped after step {step} of .*resume_from_checkpoint=true"):
                run_to_tune(project, resume_from_checkpoint=True)
        assert f"checkpoint-{step}" in {p.name for p in Path("out/tuning").iterdir()}
        assert not Path("out/tune").exists()
    run_to_tune(project, resume_from_checkpoint=True)
    assert weights_and_log("out") == weights_and_log("uninterrupted")
    assert not Path("out/tuning").exists()
    assert not [p for p in Path("out").rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".pth")]


@pytest.mark.parametrize("kind", ["parameter", "optimizer"])
def test_a_checkpoint_that_does_not_fit_is_one_line(project, monkeypatch, kind):
    project["rank"]["method"] = "random"
    project["tune"]["per_device_train_batch_size"] = 4
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(StoppedError):
            run_to_tune(project)
    place = Path("out/tuning/checkpoint-2")
    names = load_file(place / "state.safetensors")
    name = next(n for n, value in names.items() if n.startswith(kind) and value.dim() == 2)
    forge_checkpoint(place, name, lambda tensor: tensor[:1])
    with pytest.raises(UserError, match=r"the checkpoint does not fit this run .*delete it"):
        run_to_tune(project, resume_from_checkpoint=True)


def test_a_preempted_tuning_exits_with_143_and_resumes_from_the_newest_intact_checkpoint(project, monkeypatch, capsys):
    project["rank"]["method"] = "random"
    project["tune"] |= {"num_train_epochs": 3, "per_device_train_batch_size": 4, "save_steps": 2}
    with monkeypatch.context() as patch:
        stop_after(5, patch, signal.SIGTERM)
        with pytest.raises(StoppedError) as stopped:
            run_to_tune(project)
    assert stopped.value.code == 143
    assert sorted(p.name for p in Path("out/tuning").iterdir()) == ["checkpoint-4", "checkpoint-5"]

    with pytest.raises(UserError, match=r"was made with another tune.learning_rate, tune.lora_r;"):
        changed = project["tune"] | {"learning_rate": 0.1, "lora_r": 8}
        run_to_tune(project, tune=changed, resume_from_checkpoint=True)
    with pytest.raises(UserError, match=r"another rows.select/dropped.jsonl, rows.select/kept.jsonl,"):
        run_to_tune(project, select={"keep_ratio": 0.5}, resume_from_checkpoint=True)

    Path("out/tuning/checkpoint-5/state.safetensors").write_bytes(b"torn")
    run_to_tune(project, resume_from_checkpoint=True)
    assert "tune: resuming after step 4" in capsys.readouterr().err
    run_to_tune(project, output_dir="uninterrupted")
    assert weights_and_log("out") == weights_and_log("uninterrupted")


def test_a_signal_at_the_last_step_lets_the_tuning_finish(project, monkeypatch):
    project["rank"]["method"] = "random"
    stop_after(2, monkeypatch)
    with pytest.raises(StoppedError, match="stopped after tune, which is finished"):
        run_to_tune(project)
    assert Path("out/tune/adapter_model.safetensors").exists()
    assert not Path("out/tuning").exists()


def test_the_result_and_the_card_state_the_steps_taken(project):
    project["rank"]["method"] = "random"
    project["tune"] |= {"max_steps": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    run_to_tune(project)
    card = Path("out/tune/README.md").read_text()
    assert "| steps | 3 |\n| epochs | 0.75 |\n| rows per step (all processes) | 4 |" in card
