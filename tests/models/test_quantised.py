"""Models whose files are quantised already: refused before any work, or loaded as they are."""

import json

import pytest
import torch

from helpers.chat_tokenizers import chatml_tokenizer
from helpers.processes import pretend
from helpers.tiny import random_rows, tiny_model, with_random_lora
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.data.batches import Batches
from sealtune.models.adapters import full_players, lora_players
from sealtune.models.check import check_models
from sealtune.models.load import load_model
from sealtune.models.quantised import method_of, quantisation

BITS = [4, 8]


@pytest.fixture(scope="module", params=BITS)
def quantised(request, tmp_path_factory):
    """A folder with a model that bitsandbytes has quantised."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    pytest.importorskip("bitsandbytes")
    plain, folder = (tmp_path_factory.mktemp(name) for name in ("plain", f"bits{request.param}"))
    tokenizer = chatml_tokenizer()
    tiny_model(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128).save_pretrained(plain)
    settings = BitsAndBytesConfig(load_in_4bit=request.param == 4, load_in_8bit=request.param == 8)
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=settings, dtype=torch.float32)
    model.save_pretrained(folder)
    return folder


def stated(tmp_path, quantization_config):
    """A folder whose config.json states this quantisation."""
    tiny_model().config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": quantization_config}))
    return tmp_path


def check(folder, *, ranks=True, tunes=True, **settings):
    check_models(build_config({"model_name_or_path": str(folder), **settings}), ranks=ranks, tunes=tunes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tune": {"merge": True}}, "^tune.merge: the weights of .* are quantised .bitsandbytes_.bit., and no adapter"),
        ({"tune": {"use_peft": False}}, "^tune.use_peft: .* cannot be trained; set it to true"),
        ({"rank": {"use_peft": False}}, "^rank.use_peft: .* cannot be trained; set it to true"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(quantised, settings, message):
    with pytest.raises(UserError, match=message):
        check(quantised, **settings)


def test_a_stage_is_refused_only_for_what_it_does(quantised):
    check(quantised)
    check(quantised, tunes=False, tune={"merge": True})
    check(quantised, ranks=False, rank={"use_peft": False})


def test_the_ranking_model_is_checked_as_well(quantised, tiny_folder):
    check(tiny_folder, rank={"model_name_or_path": str(quantised)}, tune={"merge": True})
    with pytest.raises(UserError, match=r"^rank.use_peft: .*bits"):
        check(tiny_folder, rank={"model_name_or_path": str(quantised), "use_peft": False})


def test_adapters_are_trained_on_a_quantised_base_and_full_models_are_refused(quantised):
    config = build_config({"model_name_or_path": str(quantised), "dtype": "float32", "rank": {"learning_rate": 0.01}})
    player = lora_players(load_model(config), config.rank, ["theta"], 0)["theta"]
    rows, ones = Batches(random_rows(4), 4, seed=0).at(0), torch.ones(4)
    before = player.learn(rows, ones)
    player.descend()
    assert (player.learn(rows, 0 * ones) < before).any()
    with pytest.raises(UserError, match="quantised"):
        full_players(load_model(config), config.rank, ["theta"], torch.float32)


def test_a_quantised_base_is_not_sharded(quantised, monkeypatch):
    pretend(monkeypatch, 2)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="cannot be sharded; use --accelerate_config multi_gpu"):
        check(quantised)


@pytest.mark.parametrize(
    ("method", "package"),
    [("gptq", "optimum"), ("awq", "gptqmodel"), ("hqq", "hqq"), ("torchao", "torchao"), ("vptq", "vptq")],
)
def test_a_missing_package_is_named(tmp_path, method, package, monkeypatch):
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    def missing(*_args, **_kwargs):
        raise ImportError(f"{method} is not available")

    monkeypatch.setitem(AUTO_QUANTIZER_MAPPING, method, missing)
    values = {"quant_method": method, "bits": 4, "group_size": 128, "quant_type": {"default": {}}}
    with pytest.raises(UserError, match=rf"quantised \({method}\).*; pip install {package}"):
        check(stated(tmp_path, values))


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "mxfp4", "bitnet"])
def test_four_bits_on_top_of_another_quantisation_are_refused(tmp_path, method):
    with pytest.raises(UserError, match=rf"^load_in_4bit: .*\({method}\) already; set load_in_4bit to false"):
        check(stated(tmp_path, {"quant_method": method, "bits": 4}), load_in_4bit=True)


def test_a_setting_is_named_before_a_package_that_would_not_help(tmp_path):
    with pytest.raises(UserError, match=r"^tune.merge: "):
        check(stated(tmp_path, {"quant_method": "gptq", "bits": 4}), tune={"merge": True})


@pytest.mark.parametrize("method", ["exl2", None])
def test_an_unknown_quantisation_is_refused(tmp_path, method):
    with pytest.raises(UserError, match="transformers reads no such quantisation"):
        check(stated(tmp_path, {"quant_method": method, "bits": 4}))


@pytest.mark.parametrize("value", ["gptq", [1]])
def test_a_broken_config_is_one_line(tmp_path, value):
    with pytest.raises(UserError, match=r"config.json is broken"):
        check(stated(tmp_path, value))


def test_the_quantisation_of_a_text_model_within_another_is_found():
    from transformers import Gemma3Config

    config = Gemma3Config(text_config={"quantization_config": {"load_in_8bit": True}})
    assert method_of(quantisation(config)) == "bitsandbytes_8bit"


def test_names_of_layers_are_checked_before_anything_is_loaded(tiny_folder):
    for block in ("rank", "tune"):
        with pytest.raises(UserError, match=rf"^{block}.lora_target_modules: c_attn name no layer of LlamaForCausalLM"):
            check(tiny_folder, **{block: {"lora_target_modules": ["c_attn"]}})
        check(tiny_folder, **{block: {"lora_target_modules": ["c_attn"], "use_peft": False}})


def test_an_adapters_folder_is_checked_as_its_base(tmp_path, tiny_folder):
    with_random_lora(load_model(build_config({"model_name_or_path": str(tiny_folder)})), 0).save_pretrained(tmp_path)
    check(tmp_path)
    with pytest.raises(UserError, match="name no layer of LlamaForCausalLM"):
        check(tmp_path, rank={"lora_target_modules": ["c_attn"]})


def test_stored_4_bit_weights_compute_in_the_dtype_of_the_run(quantised):
    model = load_model(build_config({"model_name_or_path": str(quantised), "dtype": "bfloat16"}))
    layer = model.model.layers[0].self_attn.q_proj
    assert getattr(layer, "compute_dtype", torch.bfloat16) == torch.bfloat16  # the file says float32; 8-bit says none


@pytest.mark.parametrize("content", ["{}", "[]", "no json", '{"base_model_name_or_path": 3}'])
def test_an_adapter_without_a_base_is_one_line(tmp_path, content):
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(
        UserError, match=r"adapter_config\.json (names no base model|is not valid JSON|is not a JSON object)"
    ):
        check(tmp_path)
