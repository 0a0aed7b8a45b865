"""A second round of tuning: the saved adapter contains the first one, and every loader sees both exactly once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from helpers.chat_tokenizers import chatml_tokenizer
from helpers.tiny import with_random_lora
from sealtune.core.config_io import build_config
from sealtune.models import combined_adapter, model_cache
from sealtune.models.load import load_model
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage
from sealtune.tuning.saved_model import load_tuned, save

TOKENS = torch.arange(3, 40)[None]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(model_cache, "cache_folder", lambda: tmp_path / "cache")


def first_round(base, folder, **settings):
    adapted = with_random_lora(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), 1, **settings)
    for config in adapted.peft_config.values():
        config.base_model_name_or_path = str(base)
    adapted.save_pretrained(folder)
    return folder


def second_round(first, folder, merge=False, **settings):
    """The logits of the tuned model in memory, and the config; the model is saved."""
    values = {"model_name_or_path": str(first), "dtype": "float32", "tune": {"merge": merge}}
    config = build_config(values)
    adapted = with_random_lora(load_model(config), 2, **settings)
    found = logits(adapted)
    save(adapted, chatml_tokenizer(), config, folder)
    return found, config


@torch.no_grad()
def logits(model):
    return model(TOKENS).logits


def with_peft(base, folder):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return logits(PeftModel.from_pretrained(model, folder))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {}),
        ({"r": 8, "lora_alpha": 4, "use_rslora": True}, {"r": 2, "lora_alpha": 3}),
        ({"target_modules": ["q_proj", "down_proj"]}, {"target_modules": ["q_proj", "v_proj", "o_proj"], "r": 3}),
        ({"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"layers.1.self_attn.v_proj": 5}}, {}),
        ({"layers_to_transform": [1], "target_modules": ["up_proj"]}, {"r": 1}),
        ({"target_modules": "all-linear"}, {"lora_alpha": 1}),
    ],
    ids=["same", "other scaling", "other modules", "patterns", "one layer", "all layers"],
)
def test_one_adapter_on_the_first_base_contains_both(tiny_folder, tmp_path, first, second):
    folder = first_round(tiny_folder, tmp_path / "first", **first)
    both, config = second_round(folder, tmp_path / "second", **second)
    stored = json.loads((tmp_path / "second" / "adapter_config.json").read_text())
    assert stored["base_model_name_or_path"] == str(tiny_folder)
    torch.testing.assert_close(with_peft(tiny_folder, tmp_path / "second"), both, atol=1e-5, rtol=0)
    loaded = load_tuned(load_model(config), tmp_path / "second", config)
    torch.testing.assert_close(logits(loaded), both, atol=1e-5, rtol=0)
    alone = logits(load_model(config))
    assert (both - alone).abs().max() > 0.01
    assert (
        alone - logits(load_model(build_config({"model_name_or_path": str(tiny_folder), "dtype": "float32"})))
    ).any()


@pytest.mark.parametrize(
    "settings", [{"use_dora": True}, {"bias": "lora_only"}, {"modules_to_save": ["lm_head"]}], ids=str
)
def test_an_adapter_that_cannot_be_combined_stands_on_the_merged_model_and_says_so(
    tiny_folder, tmp_path, settings, capsys
):
    folder = first_round(tiny_folder, tmp_path / "first", **settings)
    both, config = second_round(folder, tmp_path / "second")
    assert f"the adapter stands on {folder} merged into its base" in capsys.readouterr().err
    loaded = load_tuned(load_model(config), tmp_path / "second", config)
    torch.testing.assert_close(logits(loaded), both, atol=1e-5, rtol=0)
    peft = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "second", dtype=torch.float32)
    torch.testing.assert_close(logits(peft), both, atol=1e-5, rtol=0)


def test_a_third_round_contains_all_three(tiny_folder, tmp_path):
    """The second adapter was tuned elsewhere, on the first one's folder."""
    first = first_round(tiny_folder, tmp_path / "first")
    second = first_round(tiny_folder, tmp_path / "second", target_modules=["q_proj", "o_proj"], lora_alpha=3)
    config = json.loads((second / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(first)}
    (second / "adapter_config.json").write_text(json.dumps(config))
    tuned, _ = second_round(second, tmp_path / "third")
    stored = json.loads((tmp_path / "third" / "adapter_config.json").read_text())
    assert stored["base_model_name_or_path"] == str(tiny_folder)
    torch.testing.assert_close(with_peft(tiny_folder, tmp_path / "third"), tuned, atol=1e-5, rtol=0)


def test_a_merged_second_round_contains_both(tiny_folder, tmp_path):
    both, _ = second_round(first_round(tiny_folder, tmp_path / "first"), tmp_path / "second", merge=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "second", dtype=torch.float32)
    torch.testing.assert_close(logits(model), both, atol=1e-5, rtol=0)


def test_the_revision_of_the_base_is_saved(tiny_folder, tmp_path):
    config = build_config({"model_name_or_path": str(tiny_folder), "model_revision": "v2", "dtype": "float32"})
    save(with_random_lora(load_model(config), 1), chatml_tokenizer(), config, tmp_path / "tune")
    assert json.loads((tmp_path / "tune" / "adapter_config.json").read_text())["revision"] == "v2"


def test_short_names_are_used_only_if_they_name_no_other_module():
    modules = {"a.q_proj", "b.q_proj", "b.v_proj"}
    assert combined_adapter._targets({"a.q_proj", "b.q_proj"}, modules) == ["q_proj"]
    assert combined_adapter._targets({"a.q_proj"}, modules) == ["a.q_proj"]


def test_a_second_round_is_ranked_tuned_and_evaluated_on_the_first(project):
    def run(name, **changes):
        context = Run(build_config({**project, "output_dir": name, **changes}))
        for stage in ("rank", "select", "tune", "evaluate"):
            run_stage(context, stage)
        results = json.loads(Path(name, "evaluate/results.json").read_text())
        losses = {row["model"]: row["value"] for row in results if (row["measure"], row["set"]) == ("loss", "held_out")}
        return Path(name, "rank/scores.parquet").read_bytes(), losses

    scores, losses = run("one")
    second_scores, second_losses = run("two", model_name_or_path="one/tune")
    assert scores != second_scores
    assert second_losses["base"] == pytest.approx(losses["tuned"], rel=1e-5)
    assert second_losses["tuned"] < losses["tuned"] < losses["base"]
    config = json.loads(Path("two/tune/adapter_config.json").read_text())
    first = load_file("one/tune/adapter_model.safetensors")
    second = load_file("two/tune/adapter_model.safetensors")
    assert config["base_model_name_or_path"] == project["model_name_or_path"]
    assert all(value.numel() == 2 * first[name].numel() for name, value in second.items())
    card = Path("two/tune/README.md").read_text()
    assert "continued the adapter `one/tune`" in card and f"base_model: {project['model_name_or_path']}" in card
