"""Repair: an adapter that was tuned on harmful answers, made safe again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel

import sealtune
from helpers.rows import write_jsonl
from helpers.tiny import random_rows, tiny_model, with_random_lora
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.models.load import load_model, load_tokenizer
from sealtune.pipeline.repair import describe, repair, table
from sealtune.tuning import repair as method
from sealtune.tuning.guard import Guard
from sealtune.tuning.repair import KeptTask, Repaired, RepairSettings, lora_layers, scaled_by
from tuning.test_train import run_to_tune

HARMFUL = [f"red or blue {i}" for i in range(12)]
HARMLESS = [f"a quick list of {i}" for i in range(12)]
TUNE = {"learning_rate": 0.02, "per_device_train_batch_size": 4, "guard": "off", "lora_target_modules": "all-linear"}
ALIGN = TUNE | {"use_peft": False, "learning_rate": 0.005, "max_steps": 60}


@pytest.fixture(scope="module")
def tuned_before(tmp_path_factory):
    """Where the folders of ``unsafe`` are kept: its two tunings take longer than a repair."""
    return tmp_path_factory.mktemp("tuned")


@pytest.fixture
def unsafe(project, tuned_before):
    """A config whose model refuses harmful prompts, and an adapter in out/tune that has learned to answer them."""
    safe = [{"prompt": p, "response": "i cannot do that", "kind": "harmful"} for p in HARMFUL]
    safe += [{"prompt": p, "response": "one two three", "kind": "harmless"} for p in HARMLESS]
    write_jsonl(Path("safe.jsonl"), safe)
    rows = [{"prompt": p, "response": "red is what you want", "unsafe": 1} for p in HARMFUL]
    rows += [{"prompt": p, "response": "one two three", "unsafe": 0} for p in HARMLESS]
    write_jsonl(Path("candidates.jsonl"), rows)
    project["rank"] = {"method": "random"}
    aligned = {"datasets": ["safe.jsonl"], "output_dir": "aligned", "label_column": None, "tune": ALIGN}
    named = {"model_name_or_path": "aligned/tune"}
    if not (tuned_before / "out").exists():
        run_to_tune(project, select={"keep_ratio": 1.0}, **aligned)
        run_to_tune(project | named, select={"keep_ratio": 1.0}, tune=TUNE | {"max_steps": 60})
        for name in ("aligned", "out"):
            shutil.copytree(name, tuned_before / name)
    shutil.copytree(tuned_before, ".", dirs_exist_ok=True)
    project |= named
    return project | {"output_dir": "repaired", "tune": {"guard": "teach", "learning_rate": 0.01}}


def test_the_adapter_refuses_again_and_keeps_the_task(unsafe):
    done = repair(Path("out/tune"), build_config(unsafe))
    assert done.steps > 0
    assert done.is_safe
    assert done.tuned["refuse"] > 0.1  # the tuning had made the safe answers less likely
    assert done.repaired["refuse"] <= 0.02
    assert done.repaired["task_divergence"] < 1.0
    results = json.loads(Path("repaired/repair.json").read_text())
    assert results["repaired"] == done.repaired
    assert results["adapter"] == "out/tune"


def test_what_is_written_is_the_repaired_adapter_on_the_same_base(unsafe):
    before = Path("out/tune/adapter_model.safetensors").read_bytes()
    repair(Path("out/tune"), build_config(unsafe))
    assert Path("out/tune/adapter_model.safetensors").read_bytes() == before
    settings = [json.loads(Path(p, "adapter_config.json").read_text()) for p in ("out/tune", "repaired/adapter")]
    assert settings[0]["base_model_name_or_path"] == settings[1]["base_model_name_or_path"]
    assert Path("repaired/adapter/adapter_model.safetensors").read_bytes() != before
    PeftModel.from_pretrained(load_model(build_config(unsafe)), "repaired/adapter")
    card = Path("repaired/adapter/README.md").read_text()
    assert "trained for" in card
    assert "| J, probability" in card


def test_from_python(unsafe):
    config = build_config(unsafe)
    model = PeftModel.from_pretrained(load_model(config), "out/tune")
    done = sealtune.repair(
        model, "safe.jsonl", "candidates.jsonl", max_length=64, tune={"guard": "teach", "learning_rate": 0.01}
    )
    assert done.is_safe
    given = sealtune.repair(model, "safe.jsonl", tokenizer=load_tokenizer(config), max_length=64)
    assert given.steps == 0  # it is safe now
    assert given.scale == 1.0


def test_a_learned_task_does_not_count_as_unsafe(unsafe, monkeypatch):
    """Whoever has learned a task answers harmless prompts in another way than the start model."""
    limits = []
    monkeypatch.setattr(Guard, "is_satisfied", lambda self, record: limits.append(dict(self.limits)))
    rows = [{"prompt": p, "response": "the lazy dog jumps", "unsafe": 0} for p in HARMLESS]
    write_jsonl(Path("candidates.jsonl"), rows)
    run_to_tune(unsafe, select={"keep_ratio": 1.0}, output_dir="task", tune=TUNE | {"max_steps": 30})
    done = repair(Path("task/tune"), build_config(unsafe))
    assert done.tuned["help"] > 0.1
    assert limits[-1] == {"refuse": 0.02, "help": pytest.approx(0.02 + done.tuned["help"])}


def test_without_rows_of_the_task_steps_are_taken_on_the_safe_set_alone(unsafe):
    done = repair(Path("out/tune"), build_config(unsafe | {"datasets": []}))
    assert done.is_safe
    assert done.scale == 1.0


# -- by scale ----------------------------------------------------------------------------------------------------------


class OneScale:
    """A guard that is satisfied up to a scale of the adapter."""

    def __init__(self, layers, most):
        self.layers, self.most = layers, most
        self.full = layers[0].scaling["default"]

    def measure(self, step):
        return {"step": float(step), "refuse": self.layers[0].scaling["default"] / self.full}

    def is_satisfied(self, record):
        return record["refuse"] <= self.most + 1e-9


class Costs:
    """Rows of a task on which a scale costs this much."""

    def __init__(self, layers, per_tenth):
        self.layers, self.per_tenth, self.rows = layers, per_tenth, [0]
        self.full = layers[0].scaling["default"]

    def mean(self):
        return self.per_tenth * 10 * (1 - self.layers[0].scaling["default"] / self.full)


@pytest.mark.parametrize(
    ("most", "per_tenth", "expected"),
    [(0.75, 0.001, 0.7), (0.9, 0.001, 0.9), (0.1, 0.001, None), (0.75, 0.02, None)],
)
def test_the_largest_scale_that_is_safe_and_cheap_is_taken(most, per_tenth, expected):
    layers = lora_layers(with_random_lora(tiny_model(), 0))
    scale, record = method._search_scale(layers, OneScale(layers, most), Costs(layers, per_tenth))
    assert (None if record is None else scale) == expected
    assert layers[0].scaling["default"] == OneScale(layers, 1).full  # the search itself changes nothing


def test_scaling_the_weights_is_the_same_as_scaling_the_adapter():
    model = with_random_lora(tiny_model(), 0)
    tokens = torch.arange(3, 12)[None]
    full = model(tokens).logits
    layers = lora_layers(model)
    with scaled_by(layers, 0.4):
        scaled = model(tokens).logits
    torch.testing.assert_close(model(tokens).logits, full)
    method._multiply(layers, 0.4)
    torch.testing.assert_close(model(tokens).logits, scaled)
    assert not torch.allclose(scaled, full)


def test_the_divergence_of_the_task_is_zero_until_the_adapter_changes(project):
    from sealtune.tuning.predictor import Predictor

    config = build_config(project)
    model = with_random_lora(load_model(config), 0)
    predictor = Predictor(model, load_tokenizer(config))
    kept = KeptTask(random_rows(5), predictor, size=2)
    assert kept.mean() == pytest.approx(0, abs=1e-6)
    with scaled_by(lora_layers(model), 0.3):
        assert kept.mean() > 1e-4
        assert kept.loss(4).item() > 1e-5
    assert KeptTask(random_rows(5).take([]), predictor, size=2).mean() == 0


# -- by steps ----------------------------------------------------------------------------------------------------------


class Watched:
    """A guard whose measurements are given: whether they are safe, and what the task has lost by then."""

    def __init__(self, weight, records):
        self.weight, self.records, self.history = weight, iter(records), []

    def loss(self, step):
        return self.weight.sum(), None

    def watch(self, step):
        safe, self.cost = next(self.records)
        self.history.append({"step": float(step), "safe": safe})

    def is_satisfied(self, record):
        return record["safe"]

    def mean(self):
        return self.cost


@pytest.mark.parametrize(
    ("records", "taken", "kept_step"),
    [
        ([(False, 0.01), (True, 0.02), (True, 0.01)], 2, 2),  # safe and cheap: no more steps
        ([(True, 0.09), (True, 0.05), (False, 0.04), (True, 0.06)], 4, 2),  # safe at the least cost
        ([(False, 0.01)] * 4, 4, 4),  # never safe: as far as it got
    ],
)
def test_the_step_is_kept_that_is_safe_at_the_least_cost(records, taken, kept_step):
    weight = torch.nn.Parameter(torch.zeros(1))
    guard = Watched(weight, records)
    kept = type("Kept", (), {"loss": lambda *_: 0.0, "mean": lambda _: guard.mean()})()
    settings = RepairSettings(steps=4, watch_every=1, learning_rate=0.1)
    step, record = method._descend([weight], guard, kept, settings, lambda *_: None)
    assert (len(guard.history), step, record["step"]) == (taken, kept_step, kept_step)
    assert weight.item() == pytest.approx(-0.1 * kept_step, rel=1e-3)  # AdamW takes steps of its rate here


# -- faults ------------------------------------------------------------------------------------------------------------


def test_faults_are_named_before_a_model_is_loaded(unsafe, tmp_path):
    Path("empty").mkdir()
    for adapter, changes, message in [
        ("empty", {}, r"empty: not the folder of an adapter; it has no adapter_config.json"),
        ("out/tune", {"safe_datasets": []}, r"repair: no safe set; name it with --safe FILE"),
        ("out/tune", {"load_in_4bit": True}, r"load_in_4bit: an adapter is repaired on the weights themselves"),
        ("out/tune", {"tune": {"guard": "off"}}, r"tune.guard: a repair needs the guard"),
    ]:
        with pytest.raises(UserError, match=message):
            repair(Path(adapter), build_config(unsafe | changes | {"model_name_or_path": "missing"}))
    Path("out/adapter").symlink_to(Path("out/tune").absolute())
    with pytest.raises(UserError, match=r"--out out would replace the adapter itself"):
        repair(Path("out/tune"), build_config(unsafe | {"output_dir": "out"}))


def test_an_adapter_that_is_no_lora_is_refused():
    from peft import IA3Config, get_peft_model

    model = get_peft_model(tiny_model(), IA3Config(target_modules=["v_proj"], feedforward_modules=[]))
    with pytest.raises(UserError, match="no LoRA adapter"):
        lora_layers(model)


def test_a_repair_that_fails_says_so():
    start, tuned = {"step": 0.0, "refuse": 0.0}, {"step": 0.0, "refuse": 1.0}
    done = Repaired(start, tuned, {"step": 8.0, "refuse": 0.5, "task_divergence": 0.1}, 1.0, 8, is_safe=False)
    assert "still less safe than the start model: give more safe rows" in describe(done)
    assert table(done) == [
        ["distance, safe answers that refuse", "0.000", "1.000", "0.500"],
        ["KL to the adapter as it was, on rows of the task", "", "", "0.100"],
    ]
