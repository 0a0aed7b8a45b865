import logging
import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from helpers.chat_tokenizers import (
    bare_tokenizer,
    chatml_tokenizer,
    gemma_tokenizer,
    llama3_tokenizer,
    mistral_tokenizer,
    thinking_tokenizer,
)
from helpers.families import FAMILIES, family_model
from helpers.tiny import VOCABULARY, tiny_model, with_random_lora
from sealtune.core.errors import UserError
from sealtune.core.types import Message, Sample
from sealtune.data.encode import encode, encode_prompt
from sealtune.models import openings as module
from sealtune.models import prefix_tree
from sealtune.models.openings import (
    REFUSALS,
    encode_openings,
    log_odds,
    opening_log_probs,
    refusal_log_probs,
)

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [15], [16, 17, 18, 19]]
OPENINGS = [(20, 21, 22), (20, 21, 23), (20, 24), (25,), (26, 27, 28, 29), (21, 20)]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
MODERN = {"head_dim": 8, "num_key_value_heads": 2, "layer_types": ["sliding_attention", "full_attention"]}


def modern_model(family, **changes):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{"vocab_size": VOCABULARY, "pad_token_id": 0, **SIZES, **changes})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


MODELS = {
    "llama": tiny_model,
    "llama, eager attention": lambda: tiny_model(attn_implementation="eager"),
    "qwen2": lambda: modern_model("qwen2", num_key_value_heads=2),
    "gemma2, windows of 4": lambda: modern_model("gemma2", sliding_window=4, **MODERN),
    "gemma3, windows of 64": lambda: modern_model("gemma3_text", sliding_window=64, **MODERN),
    "gemma3, windows of 4": lambda: modern_model("gemma3_text", sliding_window=4, **MODERN),
    "mistral, windows of 4": lambda: modern_model("mistral", sliding_window=4, num_key_value_heads=2),
    "LoRA": lambda: with_random_lora(tiny_model(), 1),
    **{family: lambda family=family: family_model(family) for family in FAMILIES},
}


def one_by_one(model, prompts, openings):
    """The slow, obvious way."""
    found = torch.zeros(len(prompts), len(openings))
    for i, prompt in enumerate(prompts):
        for k, opening in enumerate(openings):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*prompt, *opening]]), use_cache=False).logits[0]
            steps = logits.log_softmax(1)[len(prompt) - 1 : -1]
            found[i, k] = steps[torch.arange(len(opening)), torch.tensor(opening)].sum()
    return found


@pytest.mark.parametrize("name", MODELS)
def test_all_openings_at_once_are_scored_like_one_by_one(name):
    model = MODELS[name]()
    found = opening_log_probs(model, PROMPTS, OPENINGS, batch_size=3)
    torch.testing.assert_close(found, one_by_one(model, PROMPTS, OPENINGS), rtol=1e-4, atol=1e-4)


BEGINNING = [30, 31, 32, 33]
ALIKE = [[*BEGINNING, 5], [*BEGINNING, 5], [*BEGINNING, 5, 6, 7], BEGINNING, [*BEGINNING, 8, 9], [30, 31, 10]]


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "gemma3, windows of 64", "LoRA", "falcon"])
@pytest.mark.parametrize("longest", [1024, 40, 1])
def test_prompts_that_begin_alike_share_a_row(name, longest, monkeypatch):
    monkeypatch.setattr(prefix_tree, "OWN_TOKENS", longest)
    model = MODELS[name]()
    found = opening_log_probs(model, ALIKE, OPENINGS)
    torch.testing.assert_close(found, one_by_one(model, ALIKE, OPENINGS), rtol=1e-4, atol=1e-4)


def test_what_prompts_have_in_common_is_one_part_of_the_row():
    tree = prefix_tree.build_tree(OPENINGS)
    row = prefix_tree.lay_out(ALIKE[:3], tree)
    assert row.tokens[:4].tolist() == BEGINNING
    assert len(row.tokens) == 4 + (1 + 1 + 3) + 3 * tree.inner
    assert row.positions[row.predicting[:, 0]].tolist() == [4, 4, 6]
    assert row.tokens[row.predicting[:, 0]].tolist() == [5, 5, 7]
    assert not row.visible[row.predicting[1]][:, row.predicting[0]].any()  # no prompt sees another one


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "gemma3, windows of 64", "LoRA", "phi3"])
def test_common_families_need_one_forward_pass_per_batch(name, monkeypatch):
    model = MODELS[name]()
    opening_log_probs(model, PROMPTS[:1], OPENINGS)  # the check
    monkeypatch.setattr(module, "_plain_log_probs", None)
    opening_log_probs(model, PROMPTS, OPENINGS)


def test_a_model_that_ignores_the_mask_is_scored_row_by_row(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, "sealtune")
    model = tiny_model()
    forward = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda attention_mask=None, **inputs: forward(**inputs))
    found = opening_log_probs(model, PROMPTS, OPENINGS)
    torch.testing.assert_close(found, one_by_one(model, PROMPTS, OPENINGS), rtol=1e-4, atol=1e-4)
    assert "something else under attention masks" in caplog.text


def test_a_model_that_refuses_the_mask_is_scored_row_by_row(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, "sealtune")
    model = tiny_model()
    forward = model.model.forward

    def refuse(attention_mask=None, **inputs):
        if attention_mask is not None:
            raise ValueError("only two dimensions")
        return forward(**inputs)

    monkeypatch.setattr(model.model, "forward", refuse)
    found = opening_log_probs(model, PROMPTS, OPENINGS)
    torch.testing.assert_close(found, one_by_one(model, PROMPTS, OPENINGS), rtol=1e-4, atol=1e-4)
    assert "only two dimensions" in caplog.text


def test_the_mode_of_the_model_is_restored_and_dropout_is_off():
    model = with_random_lora(tiny_model(), 1, lora_dropout=0.5).train()
    first, second = (opening_log_probs(model, PROMPTS, OPENINGS) for _ in range(2))
    assert model.training
    assert not first.requires_grad
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_progress_counts_every_prompt():
    calls = []
    opening_log_probs(tiny_model(), PROMPTS, OPENINGS, 3, lambda *call: calls.append(call))
    assert [call[:3] for call in calls] == [(3, 4, 3), (4, 4, 1)]


def test_prompts_and_openings_need_tokens():
    assert opening_log_probs(tiny_model(), [], OPENINGS).shape == (0, len(OPENINGS))
    with pytest.raises(ValueError, match="at least one token"):
        opening_log_probs(tiny_model(), [[]], OPENINGS)


def test_the_probabilities_of_openings_add_up():
    model = tiny_model()
    each = opening_log_probs(model, PROMPTS, OPENINGS)
    torch.testing.assert_close(refusal_log_probs(model, PROMPTS, OPENINGS).exp(), each.exp().sum(1))


def test_log_odds_compare_a_probability_with_the_rest():
    found = log_odds(torch.tensor([0.75, 0.5, 1e-9]).log())
    torch.testing.assert_close(found, torch.tensor([math.log(3), 0.0, math.log(1e-9)]))
    assert log_odds(torch.tensor([1e-4])).isfinite().all()  # rounded up above 1


def test_sixteen_openings_with_both_apostrophes():
    assert len(set(REFUSALS)) == 16
    straight = {text for text in REFUSALS if "'" in text}
    assert {text.replace("'", "\u2019") for text in straight} <= set(REFUSALS)


TOKENIZERS = [
    chatml_tokenizer,
    llama3_tokenizer,
    gemma_tokenizer,
    thinking_tokenizer,
    mistral_tokenizer,
    bare_tokenizer,
]


@pytest.mark.parametrize("make", TOKENIZERS)
def test_openings_are_the_first_tokens_of_answers(make):
    tokenizer = make()
    found = encode_openings(tokenizer, max_tokens=3)
    for text in ("I can't do that.", "Sorry, no"):
        sample = Sample("a", (Message("user", "Why?"), Message("assistant", text)), "made", {})
        encoded, _ = encode([sample], tokenizer, 1000)
        prompt = encode_prompt(tokenizer, "Why?", opened=True)
        tokens = encoded.tokens.tolist()
        assert tokens[: len(prompt)] == prompt
        answer = tuple(tokens[len(prompt) :])
        assert any(answer[: len(opening)] == opening for opening in found)


def test_no_opening_begins_with_another():
    found = encode_openings(chatml_tokenizer(), ["I can", "I cannot", "I can", "No "], 20)
    assert not [(a, b) for a in found for b in found if a != b and a[: len(b)] == b]
    assert len(found) == 2
    assert chatml_tokenizer().decode(found[1]) == "No"


def test_no_opening_left_is_an_error():
    with pytest.raises(UserError, match="cannot express"):
        encode_openings(chatml_tokenizer(), ["  "])
