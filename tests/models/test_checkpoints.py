"""Checkpoints and tokenizers that are not what they seem are refused in one line, before anything runs."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

from helpers.chat_tokenizers import chatml_tokenizer
from helpers.families import family_model
from helpers.tiny import tiny_model
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.models.load import load_model, load_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1234567\n"
PAGE = "<!DOCTYPE html>\n<html><body>Sign in</body></html>\n"
NORM = "model.layers.1.input_layernorm.weight"


@pytest.fixture
def model(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def config_of(folder):
    return build_config({"model_name_or_path": str(folder), "dtype": "float32"})


def refused(folder, message, load=load_tokenizer):
    with pytest.raises(UserError, match=message) as error:
        load(config_of(folder))
    assert "\n" not in str(error.value)


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(NORM), f"lacks the tensor {NORM}"),
        (lambda w: [w.pop(name) for name in list(w) if "layers.1" in name], r"lacks 9 tensors \(.* and 6 more\)"),
        (lambda w: w.update({NORM: torch.ones(7)}), rf"another shape .*{NORM} \(7,\) instead of \(32,\)"),
        (lambda w: w.update({"v_head.weight": torch.ones(7)}), "v_head.weight that its model class does not know"),
        (lambda w: w.update({NORM.replace("1", "2"): torch.ones(32)}), "model.layers.2.input_layernorm.weight that"),
    ],
    ids=["missing", "many missing", "another shape", "another head", "one layer more"],
)
def test_tensors_that_do_not_fit_are_named(model, change, message, capsys):
    change_weights(model, change)
    refused(model, message, load_model)
    assert "LOAD REPORT" not in capsys.readouterr().err


def test_a_checkpoint_may_store_both_tied_weights(model):
    change_weights(model, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    load_model(config_of(model))


def test_buffers_that_older_versions_saved_are_no_reason_to_refuse(tmp_path):
    family_model("gpt_neo", len(chatml_tokenizer())).save_pretrained(tmp_path)
    attention = "transformer.h.0.attn.attention."
    old = {attention + "bias": torch.ones(1, 1, 128, 128), attention + "masked_bias": torch.tensor(-1e9)}
    change_weights(tmp_path, lambda w: w.update(old))
    load_model(config_of(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(("content", "message"), [(POINTER, "a git-lfs pointer"), (PAGE, "an HTML page")])
def test_a_pointer_or_a_page_is_named_before_ranking(model, name, content, message):
    (model / name).write_text(content)
    refused(model, f"{name}: this is {message}")


def test_a_file_that_is_cut_short_is_named(model):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(model, "model.safetensors is cut short or damaged")


def test_a_shard_that_is_absent_is_named(model):
    index = {"metadata": {}, "weight_map": {NORM: "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(model, "lists model-00002-of-00002.safetensors, which the folder lacks")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "it has no config.json"), ("{", "not valid JSON"), ("[]", "not a JSON object")]
)
def test_a_config_that_is_absent_or_broken_is_one_line(model, content, message):
    (model / "config.json").unlink()
    if content is not None:
        (model / "config.json").write_text(content)
    refused(model, message)


def test_one_file_of_a_model_is_refused_by_name(model):
    refused(model / "model.safetensors", "is one file; give the folder it lies in")


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("bert", {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}),
        ("t5", {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}),
        ("bart", {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1}),
        ("vit", {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}),
    ],
)
def test_a_model_that_is_no_causal_language_model_is_one_line(tmp_path, family, sizes):
    AutoConfig.for_model(family, **sizes).save_pretrained(tmp_path)
    chatml_tokenizer().save_pretrained(tmp_path)
    refused(tmp_path, f"is no causal language model: its config.json says {family}")


def test_the_headless_body_of_a_model_with_an_untied_head_is_refused(tmp_path):
    tiny_model(tie_word_embeddings=False).save_pretrained(tmp_path)
    AutoModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    refused(tmp_path, "lacks the tensor lm_head.weight", load_model)


def test_a_model_with_code_of_its_own_needs_permission(model):
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}}
    (model / "config.json").write_text(json.dumps(config))
    refused(model, "needs code of its own .* set trust_remote_code to true")


def test_a_tokenizer_of_another_version_is_one_line(model):
    content = json.loads((model / "tokenizer.json").read_text())
    content["model"] = {"type": "BPE2", "vocab": {}, "merges": []}
    (model / "tokenizer.json").write_text(json.dumps(content))
    refused(model, "tokenizer.json is damaged, or of another version; update transformers and tokenizers")


def add_token(folder, token, *, special=True, written=True):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([token], special_tokens=special)
    if written:
        tokenizer.chat_template = f"{{{{ '{token}' }}}}{tokenizer.chat_template}"
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(("special", "written"), [(True, True), (False, True), (False, False)])
def test_a_token_without_an_embedding_is_named_before_ranking(model, special, written):
    add_token(model, "<|turn|>", special=special, written=written)
    refused(model, r"its tokenizer has others: '<\|turn\|>' \(\d+\); call model.resize_token_embeddings")


def test_a_special_token_that_no_row_can_have_is_only_a_warning(model, capsys):
    add_token(model, "<image>", written=False)
    load_tokenizer(config_of(model))
    assert "has no embedding for '<image>'" in capsys.readouterr().err
