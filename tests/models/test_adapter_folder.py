"""An adapter's folder as the model: its base and the adapter are one model."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from helpers.chat_tokenizers import chatml_tokenizer
from helpers.tiny import tiny_model, with_random_lora
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.models import adapter_folder, model_cache
from sealtune.models.load import load_model, load_tokenizer, model_fingerprint

TOKENS = torch.arange(3, 40)[None]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(model_cache, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "models"


def make_adapter(base, folder, *, name=None, seed=1, **settings):
    """A folder with a LoRA of random weights on the model in ``base``, which its config calls ``name``."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = with_random_lora(model, seed, **settings)
    for config in adapted.peft_config.values():
        config.base_model_name_or_path = str(base) if name is None else name
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


def config_of(folder, **changes):
    return build_config({"model_name_or_path": str(folder), "dtype": "float32", **changes})


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


def with_peft(base, folder):
    return logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder))


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder, change):
    weights = load_file(folder / "adapter_model.safetensors")
    change(weights)
    save_file(weights, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    "settings",
    [{}, {"use_dora": True}, {"use_rslora": True}, {"modules_to_save": ["lm_head"]}, {"rank_pattern": {"v_proj": 2}}],
    ids=str,
)
def test_an_adapter_is_loaded_with_its_base_as_peft_loads_it(tiny_folder, tmp_path, settings):
    folder = make_adapter(tiny_folder, tmp_path / "adapter", **settings)
    found = logits(load_model(config_of(folder)))
    torch.testing.assert_close(found, with_peft(tiny_folder, folder), atol=1e-5, rtol=0)
    assert (found - logits(load_model(config_of(tiny_folder)))).abs().max() > 0.01


def test_the_merged_copy_is_written_once_and_draws_no_random_numbers(tiny_folder, tmp_path, cache):
    config = config_of(make_adapter(tiny_folder, tmp_path / "adapter"))
    torch.manual_seed(0)
    load_model(config)
    first = torch.rand(1)
    torch.manual_seed(0)
    load_model(config)
    assert torch.rand(1) == first
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_a_changed_base_or_adapter_is_merged_anew_and_has_another_fingerprint(tiny_folder, tmp_path):
    base = shutil.copytree(tiny_folder, tmp_path / "base")
    folder = make_adapter(base, tmp_path / "adapter")
    found, marks = [logits(load_model(config_of(folder)))], [model_fingerprint(config_of(folder))]
    make_adapter(base, folder, seed=2)
    found.append(logits(load_model(config_of(folder))))
    marks.append(model_fingerprint(config_of(folder)))
    weights = load_file(base / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.weight"] *= 2
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    found.append(logits(load_model(config_of(folder))))
    marks.append(model_fingerprint(config_of(folder)))
    assert len({float(logit.sum()) for logit in found}) == len(set(marks)) == 3


@pytest.mark.parametrize("where", ["working directory", "adapter's folder"])
def test_a_relative_base_is_found_from_the_working_directory_or_the_folder(tiny_folder, tmp_path, monkeypatch, where):
    folder = make_adapter(tiny_folder, tmp_path / "adapter", name="base")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder, (tmp_path if where == "working directory" else folder) / "base")
    torch.testing.assert_close(logits(load_model(config_of(folder))), with_peft(tiny_folder, folder))


def test_an_adapter_on_an_adapter_is_loaded_with_both(tiny_folder, tmp_path):
    first = make_adapter(tiny_folder, tmp_path / "first")
    second = make_adapter(tiny_folder, tmp_path / "second", seed=2, name=str(first))
    merged = PeftModel.from_pretrained(load_model(config_of(first)), second)
    torch.testing.assert_close(logits(load_model(config_of(second))), logits(merged), atol=1e-5, rtol=0)


def test_adapters_that_name_each_other_are_one_line(tiny_folder, tmp_path):
    first = make_adapter(tiny_folder, tmp_path / "first", name=str(tmp_path / "second"))
    make_adapter(tiny_folder, tmp_path / "second", name=str(first))
    with pytest.raises(UserError, match="bases lead back to"):
        load_model(config_of(first))


def test_the_tokenizer_is_that_of_the_adapter_or_else_of_the_base(tiny_folder, tmp_path):
    folder = make_adapter(tiny_folder, tmp_path / "adapter")
    assert load_tokenizer(config_of(folder)).chat_template == load_tokenizer(config_of(tiny_folder)).chat_template
    chatml_tokenizer().save_pretrained(folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert load_tokenizer(config_of(folder)).chat_template == "{{ messages[0]['content'] }}"


def test_tokens_that_were_added_before_the_adapter_was_trained_are_kept(tiny_folder, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    size = base.config.vocab_size + 5
    base.resize_token_embeddings(size)
    adapted = get_peft_model(base, LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"]))
    adapted.save_pretrained(tmp_path / "adapter")
    edit(tmp_path / "adapter", base_model_name_or_path=str(tiny_folder))
    model = load_model(config_of(tmp_path / "adapter"))
    assert model.config.vocab_size == size
    torch.testing.assert_close(model.get_input_embeddings().weight, base.get_input_embeddings().weight)
    torch.testing.assert_close(logits(model), logits(adapted), atol=1e-5, rtol=0)


NAME = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(NAME), "lacks .*layers.1.self_attn.q_proj.lora_A.weight"),
        (lambda w: w.update({NAME.replace("layers.1", "layers.7"): torch.ones(4, 32)}), "has .*layers.7.*no place"),
        (
            lambda w: w.update({NAME: torch.ones(4, 31)}),
            r"another shape .*layers.1.self_attn.q_proj.lora_A.weight \(4, 31\) instead of \(4, 32\)",
        ),
    ],
    ids=["missing", "unexpected", "another shape"],
)
def test_tensors_of_an_adapter_that_do_not_fit_are_named(tiny_folder, tmp_path, change, message):
    folder = make_adapter(tiny_folder, tmp_path / "adapter")
    edit_weights(folder, change)
    with pytest.raises(UserError, match=message):
        load_model(config_of(folder))


@pytest.mark.parametrize("name", ["/no/where", "./nothing", "owner/nothing", "", None])
def test_a_base_that_is_absent_is_one_line_that_names_it(tiny_folder, tmp_path, name):
    folder = make_adapter(tiny_folder, tmp_path / "adapter")
    edit(folder, base_model_name_or_path=name)
    with pytest.raises(UserError, match=name or "names no base model"):
        load_tokenizer(config_of(folder))


def test_a_packaged_base_is_found_under_its_hub_id(tiny_folder, tmp_path, monkeypatch):
    folder = make_adapter(tiny_folder, tmp_path / "adapter", name="HuggingFaceTB/SmolLM2-135M-Instruct")
    monkeypatch.setattr(adapter_folder, "is_packaged", lambda name: name == "smollm2-135m-instruct")
    assert adapter_folder.read_base(folder).name == "smollm2-135m-instruct"


def test_the_revision_of_the_base_is_kept(tiny_folder, tmp_path):
    folder = make_adapter(tiny_folder, tmp_path / "adapter", name="owner/name")
    edit(folder, revision="v2")
    assert adapter_folder.read_base(folder) == ("owner/name", "v2")


def test_a_folder_with_a_model_and_an_adapter_is_refused(tiny_folder, tmp_path):
    folder = make_adapter(tiny_folder, shutil.copytree(tiny_folder, tmp_path / "both"))
    with pytest.raises(UserError, match=r"both a model .* and an adapter"):
        load_model(config_of(folder))


def test_adapters_that_cannot_be_merged_are_one_line(tiny_folder, tmp_path):
    from peft import PromptTuningConfig

    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)).save_pretrained(
        tmp_path / "adapter"
    )
    edit(tmp_path / "adapter", base_model_name_or_path=str(tiny_folder))
    with pytest.raises(UserError, match="of the kind PROMPT_TUNING, which no weights of its base can hold"):
        load_model(config_of(tmp_path / "adapter"))


def wide_model(folder):
    """A folder with a model whose layers have the size of a block of 4-bit weights."""
    tokenizer = chatml_tokenizer()
    tiny_model(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_adapter_on_quantised_weights_is_merged_into_what_they_stand_for(tmp_path):
    pytest.importorskip("bitsandbytes")
    wide = wide_model(tmp_path / "wide")
    base = tmp_path / "base"
    load_model(config_of(wide, load_in_4bit=True)).save_pretrained(base)
    folder = make_adapter(wide, tmp_path / "adapter", name=str(base))
    chatml_tokenizer().save_pretrained(folder)
    model = load_model(config_of(folder))
    assert type(model.model.layers[0].self_attn.q_proj) is torch.nn.Linear
    full = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).dequantize(torch.float32)
    torch.testing.assert_close(logits(model), logits(PeftModel.from_pretrained(full, folder)), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits(model), with_peft(base, folder), atol=0.01, rtol=0)  # 4-bit kernels round


def test_an_adapter_can_be_loaded_in_four_bits(tmp_path):
    pytest.importorskip("bitsandbytes")
    wide = wide_model(tmp_path / "wide")
    folder = make_adapter(wide, tmp_path / "adapter")
    four_bit, full = (logits(load_model(config_of(folder, load_in_4bit=bits))) for bits in (True, False))
    base = logits(load_model(config_of(wide)))
    assert (four_bit - full).abs().mean() < (four_bit - base).abs().mean()


def test_an_adapter_of_the_hub_is_loaded_with_its_base(tiny_folder, tmp_path, monkeypatch):
    commit = "a" * 40
    repository = tmp_path / "hub" / "models--owner--adapter"
    make_adapter(tiny_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    adapter_folder.hub_adapter.cache_clear()
    found = logits(load_model(config_of("owner/adapter")))
    torch.testing.assert_close(found, with_peft(tiny_folder, repository / "snapshots" / commit), atol=1e-5, rtol=0)
    assert model_fingerprint(config_of("owner/adapter")) != "owner/adapter@main"


def test_several_processes_merge_once(tmp_path):
    written = []

    def write(folder):
        time.sleep(0.05)
        written.append(folder)

    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: model_cache.cached_folder("name", write), range(4)))
    assert len(written) == 1
    assert set(folders) == {tmp_path / "cache" / "models" / "name"}
