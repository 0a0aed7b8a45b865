"""What is refused of an adapter before its base's weights are loaded and rows are ranked."""

from __future__ import annotations

import json

import pytest
import torch
from peft import IA3Config, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from helpers.tiny import with_random_lora
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.models import model_cache
from sealtune.models.adapter_check import check_adapter
from sealtune.models.adapter_folder import WEIGHTS
from sealtune.models.adapter_settings import CONFIG
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import _check_models, check_run


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No test here may merge, which would load the base's weights."""
    monkeypatch.setattr(model_cache, "cache_folder", lambda: tmp_path / "cache")
    yield
    assert not (tmp_path / "cache").exists()


def save_adapter(adapted, base, folder):
    for config in adapted.peft_config.values():
        config.base_model_name_or_path = str(base)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


def lora(base, folder, **settings):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return save_adapter(with_random_lora(model, 1, **settings), base, folder)


def edit(folder, **changes):
    (folder / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()) | changes))


def check(folder, ranks=True, tunes=True, **settings):
    check_adapter(build_config({"model_name_or_path": str(folder), **settings}), ranks=ranks, tunes=tunes)


def test_a_setting_that_peft_would_drop_is_refused_by_name(tiny_folder, tmp_path):
    folder = lora(tiny_folder, tmp_path / "adapter")
    edit(folder, use_wonder=False, wonder_size=None, wonder_layers=[], qalora_group_size=32)
    check(folder)
    edit(folder, use_wonder=True)
    with pytest.raises(UserError, match=r"adapter_config.json: this PEFT does not know 'use_wonder'; upgrade peft"):
        check(folder)


@pytest.mark.parametrize(
    ("kind", "message"), [("WONDER", "does not know adapters of the kind 'WONDER'"), (None, "states no peft_type")]
)
def test_an_unknown_kind_of_adapter_is_one_line(tiny_folder, tmp_path, kind, message):
    folder = lora(tiny_folder, tmp_path / "adapter")
    edit(folder, peft_type=kind)
    with pytest.raises(UserError, match=message):
        check(folder)


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig, PromptEncoderConfig])
def test_adapters_that_add_tokens_are_refused_by_their_kind(tiny_folder, tmp_path, kind):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    adapted = get_peft_model(model, kind(task_type="CAUSAL_LM", num_virtual_tokens=2))
    folder = save_adapter(adapted, tiny_folder, tmp_path / "adapter")
    with pytest.raises(
        UserError, match=r"an adapter of the kind (PROMPT|PREFIX|P)_TUNING, which no weights .*; give the base"
    ):
        check(folder, ranks=True, tunes=False)


@pytest.mark.parametrize(
    ("settings", "obstacle"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, 'bias "lora_only"'),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    ],
    ids=str,
)
def test_an_adapter_that_cannot_be_combined_is_refused_unless_the_result_is_a_full_model(
    tiny_folder, tmp_path, settings, obstacle
):
    folder = lora(tiny_folder, tmp_path / "adapter", **settings)
    with pytest.raises(UserError, match=f"with {obstacle}.*; set tune.merge to true, or merge it into its base"):
        check(folder)
    check(folder, tunes=False)
    check(folder, tune={"merge": True})
    check(folder, tune={"use_peft": False})
    with pytest.raises(UserError, match="one adapter; merge it into its base first"):
        check(folder, load_in_4bit=True)


def test_another_method_than_lora_cannot_be_combined(tiny_folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    settings = IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    folder = save_adapter(get_peft_model(model, settings), tiny_folder, tmp_path / "adapter")
    with pytest.raises(UserError, match="with peft_type IA3"):
        check(folder)


def test_the_adapter_below_an_adapter_is_checked_as_well(tiny_folder, tmp_path):
    first = lora(tiny_folder, tmp_path / "first", use_dora=True)
    second = save_adapter(
        with_random_lora(AutoModelForCausalLM.from_pretrained(tiny_folder), 2), first, tmp_path / "second"
    )
    with pytest.raises(UserError, match="first is an adapter with use_dora"):
        check(second)


def test_the_ranking_models_adapter_is_checked_but_not_combined(tiny_folder, tmp_path):
    folder = lora(tiny_folder, tmp_path / "adapter", use_dora=True)
    check(tiny_folder, rank={"model_name_or_path": str(folder)})
    edit(folder, use_wonder=True)
    with pytest.raises(UserError, match="use_wonder"):
        check(tiny_folder, rank={"model_name_or_path": str(folder)})


NAME = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(NAME), f"adapter: adapter_model.safetensors lacks {NAME}"),
        (lambda w: w.update({NAME.replace("layers.1", "layers.7"): torch.ones(4, 32)}), "layers.7.*has no place"),
        (lambda w: w.update({NAME: torch.ones(4, 31)}), rf"another shape .*: {NAME} \(4, 31\) instead of \(4, 32\)"),
    ],
    ids=["missing", "unexpected", "another shape"],
)
def test_tensors_that_do_not_fit_are_named_from_the_header(tiny_folder, tmp_path, change, message):
    folder = lora(tiny_folder, tmp_path / "adapter")
    check(folder)
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(UserError, match=message):
        check(folder)


def test_an_adapter_that_needs_real_weights_is_left_to_the_loading(tiny_folder, tmp_path, monkeypatch):
    def make(*_args, **_kwargs):
        torch.ones(1, device="meta").cpu()

    folder = lora(tiny_folder, tmp_path / "adapter")
    monkeypatch.setattr("peft.get_peft_model", make)
    check(folder)


def test_a_full_model_passes(tiny_folder):
    check(tiny_folder)


def test_a_run_is_refused_before_it_ranks(project, tiny_folder, tmp_path):
    folder = lora(tiny_folder, tmp_path / "adapter", use_dora=True)
    config = build_config({**project, "model_name_or_path": str(folder)})
    with pytest.raises(UserError, match="use_dora"):
        check_run(Run(config))
    with pytest.raises(UserError, match="use_dora"):
        _check_models(Run(config), "tune")  # as before the stage alone


def test_lora_of_no_layer_of_the_base_is_one_line(tiny_folder, tmp_path):
    folder = lora(tiny_folder, tmp_path / "adapter")
    edit(folder, target_modules=["c_attn"])
    with pytest.raises(UserError, match=r"adapter: the adapter cannot be loaded: .*c_attn"):
        check(folder)
