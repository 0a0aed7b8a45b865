"""The recipe of docs/export.md runs as it is, and the guard works in TRL's trainer as in ours."""

import re
from pathlib import Path

import pytest
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

import sealtune
from helpers.chat_tokenizers import chatml_tokenizer
from helpers.rows import made_rows, write_jsonl
from helpers.tiny import tiny_model
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.core.types import Message, Sample
from sealtune.data.encode import encode
from sealtune.models.causal_lm import dataset_losses
from sealtune.pipeline.exporter import export
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage

DOCS = (Path(__file__).parents[2] / "docs/export.md").read_text(encoding="utf-8")
SAFE = [
    {"prompt": f"red or blue {i}", "response": "i cannot" if i % 2 else "a quick list", "kind": kind}
    for i, kind in enumerate(["harmless", "harmful"] * 6)
]


class OwnTrainer(SFTTrainer):
    """A trainer of somebody else's."""


def make_trainer(folder, kind=SFTTrainer, steps=9, **settings):
    """A trainer of TRL on a tiny model in memory."""
    tokenizer = chatml_tokenizer()
    rows = [
        {name: [{"role": role, "content": row[column]}] for name, role, column in COLUMNS} for row in made_rows(12, 1)
    ]
    args = SFTConfig(
        folder, use_cpu=True, bf16=False, max_steps=steps, learning_rate=0.02, max_length=64, logging_steps=1,
        report_to="none", save_strategy="no", **settings,
    )  # fmt: skip
    model = tiny_model(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    return kind(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


COLUMNS = (("prompt", "user", "prompt"), ("completion", "assistant", "response"))


def loss_on_safe_rows(trainer):
    samples = [
        Sample(str(i), (Message("user", row["prompt"]), Message("assistant", row["response"])), "s", row)
        for i, row in enumerate(SAFE)
    ]
    encoded, _ = encode(samples, trainer.processing_class, 64)
    return sum(float(loss) for _, losses in dataset_losses(trainer.model, encoded, 4) for loss in losses)


BATCHES = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}


@pytest.fixture(scope="module")
def unguarded(tmp_path_factory):
    """The loss on the safe rows after a training without a guard."""
    trainer = make_trainer(tmp_path_factory.mktemp("unguarded"), **BATCHES)
    trainer.train()
    return loss_on_safe_rows(trainer)


@pytest.mark.parametrize("kind", [SFTTrainer, OwnTrainer])
def test_the_safe_set_is_in_force_in_a_trainer_of_trl(tmp_path, kind, unguarded):
    trainer = make_trainer(tmp_path, kind, **BATCHES)
    sealtune.guard(trainer, SAFE, tune={"guard_weight": 8.0})
    assert isinstance(trainer, kind)
    trainer.train()
    assert loss_on_safe_rows(trainer) < unguarded - 3
    record = next(record for record in trainer.state.log_history if "loss" in record)
    assert {"guard_refuse", "guard_help", "lambda_refuse", "J"} <= record.keys()
    assert [int(record["step"]) for record in trainer.guard.history] == [0, 8, 9]


def test_the_best_step_is_put_back_when_the_training_ends(tmp_path):
    trainer = make_trainer(tmp_path)
    sealtune.guard(trainer, SAFE)
    prefers = trainer.guard._prefers
    trainer.guard._prefers = lambda record: record["step"] == 8 and prefers(record)
    trainer.train()
    name, weight = next((n, p) for n, p in trainer.model.named_parameters() if p.requires_grad)
    assert trainer.guard.best["step"] == 8 and trainer.state.global_step == 9
    assert weight.equal(trainer.best[name])


def test_what_cannot_be_guarded_is_one_line(tmp_path):
    with pytest.raises(UserError, match="a str, is no SFTTrainer of TRL"):
        sealtune.guard("trainer", SAFE)
    trainer = make_trainer(tmp_path)
    sealtune.guard(trainer, SAFE)
    with pytest.raises(UserError, match="a Guarded, is guarded already"):
        sealtune.guard(trainer, SAFE)
    stream = make_trainer(tmp_path)
    stream.args.max_steps, stream.train_dataset = -1, iter(())
    with pytest.raises(UserError, match="a stream without a length; set max_steps"):
        sealtune.guard(stream, SAFE)


def test_the_recipe_of_the_documents_runs(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my-model").symlink_to(tiny_folder)
    write_jsonl(Path("rows.jsonl"), made_rows(10, 1))
    write_jsonl(Path("safe.jsonl"), SAFE)
    settings = {"datasets": ["rows.jsonl"], "safe_datasets": ["safe.jsonl"], "rank": {"method": "random"}}
    run = Run(build_config({"model_name_or_path": "my-model", "output_dir": "runs/mine", "max_length": 64, **settings}))
    for stage in ("rank", "select"):
        run_stage(run, stage)
    export(run, "trl")
    (recipe,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    assert len([line for line in recipe.splitlines() if line.strip()]) <= 10
    found = {}
    exec(recipe.replace('"tuned",', '"tuned", use_cpu=True,'), found)  # there may be no GPU here
    assert found["trainer"].state.global_step == 2
    assert found["trainer"].guard.history[-1]["step"] == 2
    assert Path("tuned/model.safetensors").exists()
