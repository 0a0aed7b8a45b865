"""A merged model computes what its base computes with the adapter; otherwise it is refused."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from helpers.chat_tokenizers import chatml_tokenizer
from helpers.tiny import tiny_model, with_random_lora
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.evaluation.generate import generate
from sealtune.models import model_cache
from sealtune.models.adapter_check import check_adapter
from sealtune.models.causal_lm import CausalLM
from sealtune.models.load import load_model
from sealtune.models.merging import merge, merge_output_layer
from sealtune.tuning.saved_model import load_tuned, save

TOKENS = torch.arange(3, 40)[None]
SIZES = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 2,
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(model_cache, "cache_folder", lambda: tmp_path / "cache")


@torch.no_grad()
def logits(model):
    return model(TOKENS).logits


def config_of(folder, **settings):
    return build_config({"model_name_or_path": str(folder), "dtype": "float32", **settings})


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens", "q_proj"]], ids=str)
@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_on_one_side_of_tied_weights_is_merged_into_that_side_alone(tmp_path, targets, tied):
    adapted = with_random_lora(tiny_model(tie_word_embeddings=tied), 1, target_modules=targets)
    expected = logits(adapted)
    merged = merge(adapted, "here")
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=0)
    merged.save_pretrained(tmp_path)
    loaded = load_model(config_of(tmp_path))
    torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=0)


def test_a_merge_that_changes_the_logits_is_refused(monkeypatch):
    adapted = with_random_lora(tiny_model(), 1)
    unload = PeftModel.__getattr__(adapted, "unload")
    monkeypatch.setattr(adapted.base_model, "merge_and_unload", unload)  # loses the adapter
    with pytest.raises(UserError, match=r"^tune.merge: merging changes what the model computes \(its logits by \d"):
        merge(adapted, "tune.merge")


def test_rounding_to_bfloat16_is_no_change():
    adapted = with_random_lora(tiny_model().bfloat16(), 1, target_modules="all-linear")
    merge(adapted, "here")


def test_losses_are_computed_with_an_adapter_on_the_output_layer():
    adapted = with_random_lora(tiny_model(), 1, target_modules=["lm_head", "q_proj"])
    expected = logits(adapted)
    merge_output_layer(adapted)
    torch.testing.assert_close(logits(adapted), expected, atol=1e-5, rtol=0)
    CausalLM(adapted)


def test_a_tuned_adapter_on_the_output_layer_can_be_evaluated(tiny_folder, tmp_path):
    config = config_of(tiny_folder)
    adapted = with_random_lora(load_model(config), 1, target_modules=["lm_head", "q_proj"])
    expected = logits(adapted)
    save(adapted, chatml_tokenizer(), config, tmp_path / "tune")
    model = load_tuned(load_model(config), tmp_path / "tune", config)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)
    CausalLM(model)


def mixture(kind, folder):
    """A folder with a mixture of experts whose config asks for router logits."""
    torch.manual_seed(0)
    if kind == "mixtral":
        model = MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4, output_router_logits=True))
    else:
        sizes = SIZES | {"head_dim": 8, "moe_intermediate_size": 32, "num_experts": 4}
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, output_router_logits=True))
    model.save_pretrained(folder)
    chatml_tokenizer().save_pretrained(folder)
    return folder


EXPERTS = {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}


@pytest.mark.parametrize("settings", [{}, EXPERTS], ids=["attention", "experts"])
@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_a_mixture_of_experts_is_merged_and_answers(tmp_path, kind, settings):
    base = mixture(kind, tmp_path / "base")
    adapted = with_random_lora(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), 1, **settings)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(tmp_path / "adapter")
    model = load_model(config_of(tmp_path / "adapter"))
    torch.testing.assert_close(logits(model), logits(adapted), atol=1e-5, rtol=0)
    asked = {"tokenizer": chatml_tokenizer(), "max_new_tokens": 3, "batch_size": 2}
    assert len(generate(model, [[5, 6, 7], [8, 9]], **asked)) == 2


def test_an_adapter_with_experts_one_by_one_is_merged_into_the_stacked_ones(tmp_path):
    """Older files name each expert; transformers 5 stacks them."""
    base = mixture("mixtral", tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    sizes = {"w1": (32, 64), "w2": (64, 32), "w3": (32, 64)}
    weights = {}
    for layer, block in enumerate(model.model.layers):
        for expert in range(4):
            deltas = {}
            for name, (inputs, outputs) in sizes.items():
                a, b = 0.2 * torch.randn(2, inputs), 0.2 * torch.randn(outputs, 2)
                key = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
                weights |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
                deltas[name] = 1.5 * b @ a  # lora_alpha / r
            block.mlp.experts.gate_up_proj.data[expert] += torch.cat([deltas["w1"], deltas["w3"]])
            block.mlp.experts.down_proj.data[expert] += deltas["w2"]
    folder = tmp_path / "adapter"
    settings = LoraConfig(r=2, lora_alpha=3, target_modules=["w1", "w2", "w3"], task_type="CAUSAL_LM")
    settings.base_model_name_or_path = str(base)
    settings.save_pretrained(folder)
    save_file(weights, folder / "adapter_model.safetensors")
    check_adapter(config_of(folder), ranks=True, tunes=False)
    torch.testing.assert_close(logits(load_model(config_of(folder))), logits(model), atol=1e-5, rtol=0)
    with pytest.raises(UserError, match=r"with the tensor .*experts\.0\.w1"):
        check_adapter(config_of(folder), ranks=True, tunes=True)


@pytest.mark.parametrize("settings", [{"merge": True}, {"use_peft": False}], ids=str)
def test_the_config_of_a_tuned_mixture_is_that_of_its_base(tmp_path, settings):
    config = config_of(mixture("mixtral", tmp_path / "base"), tune=settings)
    model = load_model(config)
    if settings.get("merge"):
        model = with_random_lora(model, 1)
    model.config.output_router_logits, model.config.router_aux_loss_coef = False, 0.5  # as a trainer sets them
    save(model, chatml_tokenizer(), config, tmp_path / "tune")
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "tune").config
    original = AutoModelForCausalLM.from_pretrained(tmp_path / "base").config
    assert stored.output_router_logits is True
    assert stored.router_aux_loss_coef == original.router_aux_loss_coef
    loaded = load_tuned(None, tmp_path / "tune", config)
    assert loaded.config.output_router_logits is False
