"""The layers that get an adapter, by family."""

import logging
import warnings

import pytest
import torch

from helpers.families import FAMILIES, family_model
from helpers.tiny import random_rows, tiny_model
from sealtune.cli.dimensions import read_dimensions
from sealtune.cli.flops import trainable_parameters
from sealtune.core.config import RankConfig, TuneConfig
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.data.batches import Batches
from sealtune.models.adapters import lora_players
from sealtune.models.target_modules import linear_names, log_targets, target_modules

USUAL = {
    "gpt2": ["c_attn"],
    "gpt_bigcode": ["c_attn"],
    "codegen": ["qkv_proj"],
    "gpt_neox": ["query_key_value"],
    "bloom": ["query_key_value"],
    "falcon": ["query_key_value"],
    "mpt": ["Wqkv"],
    "phi3": "all-linear",
}
"""What is adapted without settings; the families that are not listed have q_proj and v_proj."""


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_adapters_without_settings(family, caplog):
    model, settings = family_model(family), RankConfig()
    assert target_modules(model, settings) == USUAL.get(family, ["q_proj", "v_proj"])
    with caplog.at_level(logging.INFO, "sealtune"):
        log_targets(model, settings)
    told = [record for record in caplog.records if record.name.startswith("sealtune")]
    assert len(told) == (family in USUAL)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chosen", [None, "all-linear"])
def test_the_adapters_of_every_family_are_trained_and_counted(tmp_path, family, chosen):
    model = family_model(family)
    model.config.save_pretrained(tmp_path)
    block = {"lora_target_modules": chosen} if chosen else {}
    config = build_config({"model_name_or_path": str(tmp_path), "rank": {"learning_rate": 0.01, **block}})
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="fan_in_fan_out")
        both = lora_players(model, config.rank, ["theta", "theta_hat"], 0)
    rows, ones = Batches(random_rows(4), 4, seed=0).at(0), torch.ones(4)
    first = both["theta"].learn(rows, ones)
    both["theta"].descend()
    assert (both["theta"].learn(rows, 0 * ones) < first).any()
    assert torch.allclose(both["theta_hat"].learn(rows, 0 * ones), first)
    counted = trainable_parameters(read_dimensions(config), config.rank)
    assert counted == sum(p.numel() for p in both["theta"].parameters)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_of_every_family_are_counted(tmp_path, family):
    model = family_model(family)
    model.config.save_pretrained(tmp_path)
    found = read_dimensions(build_config({"model_name_or_path": str(tmp_path)})).parameters
    positions = ("wpe.", "embed_positions.")
    expected = sum(
        p.numel() for n, p in model.named_parameters() if p.dim() == 2 and not any(w in n for w in positions)
    )
    assert found == expected


@pytest.mark.parametrize("targets", [["q_proj"], ["q_proj", "v_proj"]])
def test_names_that_the_user_set_are_not_replaced(targets):
    settings = TuneConfig(lora_target_modules=targets)
    with pytest.raises(UserError) as error:
        target_modules(family_model("gpt2"), settings)
    assert str(error.value) == (
        f"tune.lora_target_modules: {', '.join(targets)} name no layer of GPT2LMHeadModel; its linear layers: "
        "c_attn, c_proj, c_fc; or set it to all-linear"
    )


def test_a_name_among_others_that_names_no_layer_is_a_warning(caplog):
    log_targets(tiny_model(), RankConfig(lora_target_modules=["q_proj", "Wqkv"]))
    assert caplog.messages == ["rank.lora_target_modules: Wqkv names no layer and is left out"]


def test_an_unknown_family_gets_all_linear_layers(caplog):
    model = tiny_model()
    model.model.layers = torch.nn.ModuleList([torch.nn.ModuleDict({"mix": torch.nn.Linear(4, 4)})])
    model.config.model_type = "new"
    with caplog.at_level(logging.INFO, "sealtune"):
        log_targets(model, TuneConfig())
    assert target_modules(model, TuneConfig()) == "all-linear"
    assert caplog.messages == ["tune: LoRA on all linear layers: mix"]


def test_the_output_layer_is_not_among_the_linear_layers():
    assert linear_names(tiny_model())[-1] == "down_proj"


def test_gpt2_is_merged_as_it_was_tuned():
    from peft import get_peft_model

    from sealtune.models.adapters import lora_config

    model, tokens = family_model("gpt2"), torch.arange(3, 20)[None]
    before = model(tokens).logits
    adapted = get_peft_model(model, lora_config(TuneConfig(), model))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    tuned = adapted.eval()(tokens).logits
    assert not torch.allclose(before, tuned, atol=1e-3)
    assert torch.allclose(adapted.merge_and_unload()(tokens).logits, tuned, atol=1e-4)
    assert adapted.peft_config["default"].fan_in_fan_out
