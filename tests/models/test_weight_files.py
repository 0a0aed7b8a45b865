"""Weights that do not fit config.json are found by their headers, before anything runs; damaged ones when loaded."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from helpers.chat_tokenizers import chatml_tokenizer
from helpers.families import FAMILIES, family_model
from helpers.tiny import tiny_model
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.models.check import check_models
from sealtune.models.decoder import require_hidden_states
from sealtune.models.load import load_model, load_tokenizer

NORM, QUERY = "model.layers.1.input_layernorm.weight", "model.layers.0.self_attn.q_proj.weight"
DEEPSEEK = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "first_k_dense_replace": 1,
}


@pytest.fixture
def model(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def config_of(folder):
    return build_config({"model_name_or_path": str(folder), "dtype": "float32", "rank": {"method": "seal"}})


def check(folder):
    check_models(config_of(folder), ranks=True, tunes=True)


def refused(folder, message, find=check):
    with pytest.raises(UserError, match=message) as error:
        find(folder)
    assert "\n" not in str(error.value)


def change(folder, **tensors):
    """Replace tensors of the checkpoint by name, or remove those that are None."""
    weights = load_file(folder / "model.safetensors") | tensors
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({NORM: None}, f"lacks the tensor {NORM}"),
        ({NORM: torch.ones(7)}, rf"another shape .*{NORM} \(7,\) instead of \(32,\)"),
        ({"v_head.weight": torch.ones(7)}, "v_head.weight that its model class does not know"),
    ],
    ids=["missing", "another shape", "left over"],
)
def test_tensors_that_do_not_fit_are_named_before_anything_runs(model, tensors, message, capsys):
    change(model, **tensors)
    refused(model, message)
    assert "LOAD REPORT" not in capsys.readouterr().err


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_as_transformers_saves_it_passes(family, tmp_path):
    family_model(family, len(chatml_tokenizer())).save_pretrained(tmp_path)
    check(tmp_path)


def test_the_check_draws_no_random_numbers(model):
    torch.manual_seed(0)
    check(model)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(3))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(model, value):
    weight = load_file(model / "model.safetensors")[QUERY]
    weight[3, 1] = value
    change(model, **{QUERY: weight})
    refused(model, f"has NaN or infinity in {QUERY}; ", lambda folder: load_model(config_of(folder)))


@pytest.mark.parametrize(("dtype", "name"), [(torch.int8, "I8"), (torch.float8_e4m3fn, "F8_E4M3")])
def test_quantised_weights_without_a_config_are_named(model, dtype, name):
    change(model, **{QUERY: torch.ones(32, 32).to(dtype)})
    refused(model, rf"stores quantised weights, {QUERY} \({name}\), but .* no quantization_config")


def test_masks_that_older_versions_saved_as_bytes_are_no_weights(tmp_path):
    family_model("gpt2", len(chatml_tokenizer())).save_pretrained(tmp_path)
    change(tmp_path, **{"transformer.h.0.attn.bias": torch.ones(1, 1, 128, 128, dtype=torch.uint8)})
    check(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["pytorch_model.bin"], "no model.safetensors, only pytorch_model.bin; .* convert them"),
        (["consolidated.00.pth", "consolidated.safetensors"], "only consolidated.00.pth, consolidated.safetensors"),
        (["model-00001-of-00002.safetensors"], "but no model.safetensors.index.json, .* download it too"),
        ([], "has no weights: neither model.safetensors nor"),
    ],
)
def test_weights_in_another_format_are_named(model, files, message):
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").unlink()
    for name in files:
        (model / name).write_bytes(content)
    refused(model, message)
    refused(model, message, lambda folder: load_model(config_of(folder)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("generation_config.json", b"{", "generation_config.json is not valid JSON"),
        ("generation_config.json", b'{"eos_token_id": "x"}', "generation_config.json: eos_token_id is 'x'"),
        ("tokenizer_config.json", b"[]", "tokenizer_config.json is not a JSON object"),
        ("special_tokens_map.json", b'{"a": "\xff"}', "special_tokens_map.json is not valid JSON"),
        ("chat_template.jinja", b"{{ '\xff' }}", "chat_template.jinja is no text in UTF-8"),
    ],
)
def test_a_damaged_settings_file_is_named(model, name, content, message):
    (model / name).write_bytes(content)
    refused(model, message)
    refused(model, message, lambda folder: load_tokenizer(config_of(folder)))


def deepseek(folder, **changes):
    torch.manual_seed(0)
    model_config = AutoConfig.for_model("deepseek_v3", **(DEEPSEEK | changes))
    AutoModelForCausalLM.from_config(model_config).save_pretrained(folder)
    chatml_tokenizer().save_pretrained(folder)
    return folder


def test_a_family_with_experts_and_latent_attention_passes(tmp_path):
    check(deepseek(tmp_path))


def test_a_model_whose_sizes_do_not_fit_each_other_is_refused_before_anything_runs(tmp_path):
    refused(deepseek(tmp_path, num_key_value_heads=2), "DeepseekV3ForCausalLM, which cannot run with the sizes in its")


def test_a_family_without_a_body_of_its_own_is_refused(tmp_path):
    sizes = {key: DEEPSEEK[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 2, "intermediate_size_mlp": 64}
    model_config = AutoConfig.for_model("llama4_text", **sizes, **heads, pad_token_id=0)
    AutoModelForCausalLM.from_config(model_config).save_pretrained(tmp_path)
    refused(tmp_path, "Llama4ForCausalLM, which has no body apart from its output layer")


class Bare(torch.nn.Module):
    def forward(self, input_ids, use_cache):
        return (input_ids,)


@pytest.mark.parametrize(
    ("part", "replacement", "message"),
    [
        ("get_output_embeddings", lambda self: None, "has no output layer"),
        ("base_model", property(lambda self: Bare()), "gives no last_hidden_state"),
    ],
)
def test_a_model_class_without_hidden_states_is_refused(monkeypatch, part, replacement, message):
    monkeypatch.setattr(PreTrainedModel, part, replacement, raising=False)
    if part == "get_output_embeddings":
        monkeypatch.setattr(type(tiny_model()), part, replacement)
    with pytest.raises(UserError, match=message):
        require_hidden_states(tiny_model(), "own")
