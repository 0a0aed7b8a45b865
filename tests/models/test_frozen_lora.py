"""A second round in 4-bit: ranking, tuning and evaluation see the same numbers."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from helpers.chat_tokenizers import chatml_tokenizer
from helpers.tiny import random_rows, tiny_model, with_random_lora
from sealtune.core.config_io import build_config
from sealtune.data.batches import Batches
from sealtune.models import model_cache
from sealtune.models.adapters import lora_players
from sealtune.models.frozen_lora import add_frozen
from sealtune.models.load import load_model, load_tokenizer
from sealtune.tuning.saved_model import load_tuned, save

TOKENS = torch.arange(3, 40)[None]


@torch.no_grad()
def logits(model):
    return model(TOKENS).logits


def adapter(model, base, folder, seed=1, **settings):
    adapted = with_random_lora(model, seed, **settings)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return adapted


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": 3, "target_modules": "all-linear"},
        {"use_rslora": True, "rank_pattern": {"v_proj": 2}},
        {"target_modules": ["embed_tokens", "lm_head"]},
    ],
    ids=str,
)
def test_it_computes_what_peft_computes(tmp_path, settings):
    adapted = adapter(tiny_model(), "base", tmp_path, **settings)
    model = tiny_model()
    add_frozen(model, tmp_path)
    torch.testing.assert_close(logits(model), logits(adapted), atol=1e-5, rtol=0)
    assert (logits(model) - logits(tiny_model())).abs().max() > 0.01


@pytest.fixture
def first(tmp_path, monkeypatch):
    """An adapter on a base whose layers have the size of a block of 4-bit weights."""
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(model_cache, "cache_folder", lambda: tmp_path / "cache")
    tokenizer = chatml_tokenizer()
    base = tmp_path / "base"
    tiny_model(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128).save_pretrained(base)
    tokenizer.save_pretrained(base)
    adapter(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), base, tmp_path / "first")
    return tmp_path / "first"


def test_a_second_round_is_tuned_and_evaluated_on_the_same_4_bit_weights(first, tmp_path):
    config = build_config({"model_name_or_path": str(first), "dtype": "float32", "load_in_4bit": True})
    model = load_model(config)
    assert not (tmp_path / "cache").exists()  # nothing is merged
    base = build_config({"model_name_or_path": str(tmp_path / "base"), "dtype": "float32", "load_in_4bit": True})
    with_first = PeftModel.from_pretrained(load_model(base), first)
    torch.testing.assert_close(logits(model), logits(with_first), atol=1e-5, rtol=0)
    second = with_random_lora(model, 2)
    tuned = logits(second)
    save(second, load_tokenizer(config), config, tmp_path / "second")
    torch.testing.assert_close(logits(load_tuned(None, tmp_path / "second", config)), tuned, atol=1e-5, rtol=0)


def test_a_second_adapter_learns_beside_the_frozen_one(first):
    values = {"model_name_or_path": str(first), "dtype": "float32", "load_in_4bit": True}
    config = build_config(values | {"rank": {"learning_rate": 0.01}})
    player = lora_players(load_model(config), config.rank, ["theta"], 0)["theta"]
    rows, ones = Batches(random_rows(4), 4, seed=0).at(0), torch.ones(4)
    before = player.learn(rows, ones)
    player.descend()
    assert (player.learn(rows, 0 * ones) < before).any()
