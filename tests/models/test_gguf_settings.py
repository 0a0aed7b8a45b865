"""Settings and tensors of a GGUF file that transformers does not read: in the config, refused, or named."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from helpers.gguf_files import SETTINGS, llama_tensors, write_gguf
from helpers.tiny import VOCABULARY, tiny_model
from sealtune.core.errors import UserError
from sealtune.models import model_cache
from sealtune.models.gguf_settings import apply_settings
from sealtune.models.sources import resolve_model

pytest.importorskip("gguf")

THETA = 500_000.0
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@pytest.fixture
def convert(tmp_path, monkeypatch):
    """Converts a model to GGUF and back; returns the folder."""
    monkeypatch.setattr(model_cache, "cache_folder", lambda: tmp_path / "cache")

    def run(model=None, tensors=None, **settings):
        own = llama_tensors(model or tiny_model()) | (tensors or {})
        return Path(resolve_model(str(write_gguf(tmp_path / "x.gguf", own, settings=settings))))

    return run


def rope_of(folder):
    return json.loads((folder / "config.json").read_text())["rope_parameters"]


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 200)[None]).logits.float()


def config(family, **changes):
    """An empty config of transformers, and the settings of a file of this family."""
    name = {"qwen2moe": "qwen2_moe", "gemma3": "gemma3_text"}.get(family, family)
    return AutoConfig.for_model(name), SETTINGS | {"attention.key_length": 8} | changes


def test_a_tensor_without_a_place_is_named(convert):
    with pytest.raises(UserError, match=r"x\.gguf has tensors that this model has no place for: blk\.0\.foo\.weight$"):
        convert(tensors={"blk.0.foo.weight": np.ones((4, 4), np.float32)})


def test_the_bias_of_a_projection_is_not_dropped(convert):
    with pytest.raises(UserError, match=r"no place for: blk\.1\.attn_q\.bias$"):
        convert(tensors={"blk.1.attn_q.bias": np.ones(32, np.float32)})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
            {"rope_type": "linear", "factor": 4.0},
        ),
        ({"rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 128,
            },
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
        ),
    ],
)
def test_scaled_rotary_embeddings_are_kept(convert, settings, expected):
    model = tiny_model(rope_parameters={"rope_theta": THETA} | expected)
    folder = convert(model, **settings, **{"rope.freq_base": THETA})
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert rope_of(folder) | expected | {"rope_theta": THETA} == rope_of(folder)
    assert torch.equal(found.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    assert found.model.rotary_emb.attention_scaling == pytest.approx(model.model.rotary_emb.attention_scaling)
    assert torch.allclose(logits(found), logits(model.bfloat16().float()), atol=1e-3)


def divisors(model):
    """What llama.cpp stores of a model with Llama 3.1's scaling."""
    inverse, _ = ROPE_INIT_FUNCTIONS["llama3"](model.config, torch.device("cpu"))
    width = len(inverse)
    return (THETA ** -(torch.arange(width) / width) / inverse).numpy().astype(np.float32)


def llama31(**changes):
    return tiny_model(
        num_attention_heads=2,
        num_key_value_heads=2,
        hidden_size=64,
        rope_parameters={"rope_type": "llama3", "rope_theta": THETA} | LLAMA3 | changes,
    )


WIDE = {
    "embedding_length": 64,
    "attention.head_count": 2,
    "attention.head_count_kv": 2,
    "rope.dimension_count": 32,
    "rope.freq_base": THETA,
}


@pytest.mark.parametrize(
    "changes",
    [{}, {"factor": 32.0}, {"factor": 16.0, "high_freq_factor": 8.0, "original_max_position_embeddings": 16384}],
)
def test_the_divisors_of_llama_3_1_are_its_scaling(convert, changes):
    model = llama31(**changes)
    folder = convert(model, {"rope_freqs.weight": divisors(model)}, **WIDE)
    assert rope_of(folder)["rope_type"] == "llama3"
    found = AutoModelForCausalLM.from_pretrained(folder).model.rotary_emb.inv_freq
    assert torch.allclose(found, model.model.rotary_emb.inv_freq, rtol=1e-3)


def test_divisors_that_change_nothing_are_no_scaling(convert):
    assert rope_of(convert(tensors={"rope_freqs.weight": np.ones(4, np.float32)}))["rope_type"] == "default"


def test_other_divisors_are_refused(convert):
    with pytest.raises(UserError, match=r"\(rope_freqs.weight\) are not those of Llama 3.1's scaling"):
        convert(tensors={"rope_freqs.weight": np.array([1, 3, 2, 5], np.float32)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rope.scaling.type": "twisted"}, "scaled by 'twisted'"),
        ({"rope.scaling.type": "yarn", "rope.scaling.yarn_ext_factor": 0.5}, "yarn_ext_factor 0.5"),
        ({"rope.scaling.type": "longrope"}, "lacks rope_factors_long.weight"),
        ({"attention.key_length": 8, "rope.dimension_count": 4}, "rotates 4 of the 8 dimensions"),
        ({"context_length": None}, r"lacks the setting llama\.context_length"),
        ({"attention.head_count": None}, r"lacks the setting llama\.attention\.head_count,"),
        ({"attention.layer_norm_rms_epsilon": None}, r"lacks the setting llama\.attention\.layer_norm_rms_epsilon"),
        ({"attention.causal": False}, "is an encoder"),
    ],
)
def test_settings_that_cannot_be_represented_or_guessed_are_refused(convert, settings, message):
    with pytest.raises(UserError, match=message) as error:
        convert(**settings)
    assert "\n" not in str(error.value)


def test_without_a_number_of_key_value_heads_it_is_that_of_all_heads(convert):
    model = tiny_model(num_key_value_heads=4)
    folder = convert(model, **{"attention.head_count_kv": None})
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert found.config.num_key_value_heads == 4
    assert torch.allclose(logits(found), logits(model.bfloat16().float()), atol=1e-3)


def test_a_setting_without_a_place_is_named_with_its_value(convert, capsys):
    convert(**{"attention.sliding_window": 64, "attention.clamp_kqv": 2.0, "rope.scaling.finetuned": True})
    err = capsys.readouterr().err
    assert "llama.attention.sliding_window = 64 has no place" in err
    assert "llama.attention.clamp_kqv = 2.0" in err
    assert err.count("has no place") == 2


def test_a_window_as_long_as_the_context_is_no_reason_to_warn(convert, capsys):
    convert(**{"attention.sliding_window": 512})
    assert "has no place" not in capsys.readouterr().err


GEMMA_27B = {
    "block_count": 46,
    "embedding_length": 4608,
    "attention.head_count": 32,
    "attention.key_length": 128,
    "rope.dimension_count": 128,
}


@pytest.mark.parametrize(
    ("family", "settings", "field", "value"),
    [
        ("gemma2", {"attn_logit_softcapping": 40.0}, "attn_logit_softcapping", 40.0),
        ("gemma2", {"final_logit_softcapping": 20.0}, "final_logit_softcapping", 20.0),
        ("gemma2", {}, "query_pre_attn_scalar", 8),
        ("gemma2", GEMMA_27B, "query_pre_attn_scalar", 144),
        ("phi3", {"attention.sliding_window": 100}, "sliding_window", 100),
        ("mistral", {"attention.sliding_window": 100}, "sliding_window", 100),
        ("qwen3", {}, "head_dim", 8),
        ("qwen2moe", {"expert_feed_forward_length": 24}, "moe_intermediate_size", 24),
        ("qwen2moe", {"expert_weights_norm": True}, "norm_topk_prob", True),
        ("nemotron", {"attention.layer_norm_epsilon": 1e-3}, "norm_eps", 1e-3),
        ("gpt2", {"context_length": 77}, "n_positions", 77),
    ],
)
def test_settings_of_other_families_reach_the_config(family, settings, field, value):
    model_config, own = config(family, **settings)
    if "attention.layer_norm_epsilon" in settings:
        del own["attention.layer_norm_rms_epsilon"]
    apply_settings(model_config, family, own, {}, "x.gguf")
    assert getattr(model_config, field) == value


def test_rotary_embeddings_of_other_families_reach_the_config():
    stablelm, own = config("stablelm", **{"rope.dimension_count": 4, "rope.freq_base": THETA})
    apply_settings(stablelm, "stablelm", own, {}, "x.gguf")
    assert (stablelm.rope_parameters["partial_rotary_factor"], stablelm.rope_parameters["rope_theta"]) == (0.5, THETA)
    gemma3, own = config(
        "gemma3", **{"rope.freq_base": THETA, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    )
    apply_settings(gemma3, "gemma3", own, {}, "x.gguf")
    assert gemma3.rope_parameters["full_attention"] == {"rope_type": "linear", "factor": 8.0, "rope_theta": THETA}
    assert gemma3.rope_parameters["sliding_attention"] == {"rope_type": "default", "rope_theta": 10_000.0}
    phi3, own = config("phi3", **{"rope.scaling.original_context_length": 128, "rope.scaling.attn_factor": 1.5})
    factors = {f"rope_factors_{name}.weight": np.full(4, value) for name, value in (("long", 3.0), ("short", 1.0))}
    apply_settings(phi3, "phi3", own, factors, "x.gguf")
    assert phi3.rope_parameters["long_factor"] == [3.0] * 4
    assert (phi3.rope_parameters["attention_factor"], phi3.original_max_position_embeddings) == (1.5, 128)


def test_a_family_that_weights_experts_in_another_way_is_named(capsys):
    for function, named in ((1, False), (2, True)):
        model_config, own = config("qwen2moe", expert_gating_func=function)
        apply_settings(model_config, "qwen2moe", own, {}, "x.gguf")
        assert ("qwen2moe.expert_gating_func = 2" in capsys.readouterr().err) == named


def test_the_vocabulary_is_that_of_the_file(convert):
    assert json.loads((convert(vocab_size=None) / "config.json").read_text())["vocab_size"] == VOCABULARY
