import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, RwkvConfig, RwkvForCausalLM

from sealtune.evaluation.generate import end_tokens, generate

WORDS = [f"w{i}" for i in range(40)]


@pytest.fixture(scope="module")
def tokenizer():
    words = Tokenizer(models.WordLevel({"<unk>": 0, **{w: i + 1 for i, w in enumerate(WORDS)}}, unk_token="<unk>"))
    fast = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<eos>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    return fast


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.6, eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]


def test_answers_do_not_depend_on_the_batch(model, tokenizer):
    options = {"tokenizer": tokenizer, "max_new_tokens": 12}
    alone = [generate(model, [prompt], batch_size=1, **options)[0] for prompt in PROMPTS]
    for batch_size in (2, 3, 8):
        assert generate(model, PROMPTS, batch_size=batch_size, **options) == alone
    assert len({text for text, _, _ in alone}) > 1


def test_greedy_generation_is_the_argmax_of_each_step(model, tokenizer):
    tokens, ends = list(PROMPTS[2]), end_tokens(model, tokenizer)
    new = []
    while len(new) < 6 and (not new or new[-1] not in ends):
        with torch.no_grad():
            new.append(int(model.eval()(torch.tensor([tokens + new])).logits[0, -1].argmax()))
    (text, count, finished), *_ = generate(model, [PROMPTS[2]], tokenizer=tokenizer, max_new_tokens=6, batch_size=1)
    assert text == tokenizer.decode([t for t in new if t not in ends]) and count == len(new)
    assert finished == (new[-1] in ends)


def always(model, monkeypatch, token):
    """Make the model always predict this token."""
    original = model.forward

    def forward(*args, **kwargs):
        output = original(*args, **kwargs)
        output.logits[..., token] = 1e4
        return output

    monkeypatch.setattr(model, "forward", forward)


@pytest.mark.parametrize("end", ["<|im_end|>", "<eos>"])
def test_every_end_token_ends_an_answer(model, tokenizer, monkeypatch, end):
    always(model, monkeypatch, tokenizer.convert_tokens_to_ids(end))
    answers = generate(model, PROMPTS, tokenizer=tokenizer, max_new_tokens=5, batch_size=2)
    assert answers == [("", 1, True)] * len(PROMPTS)


def test_a_truncated_answer_is_not_finished(model, tokenizer, monkeypatch):
    always(model, monkeypatch, 7)
    assert generate(model, [[1]], tokenizer=tokenizer, max_new_tokens=3, batch_size=2) == [("w6 w6 w6", 3, False)]


def test_progress_is_reported_and_training_mode_restored(model, tokenizer):
    calls = []
    model.train()
    answers = generate(
        model, PROMPTS, tokenizer=tokenizer, max_new_tokens=2, batch_size=2, on_batch=lambda *c: calls.append(c)
    )
    assert model.training
    assert [(done, total) for done, total, _ in calls] == [(2, 5), (4, 5), (5, 5)]
    assert sum(new for _, _, new in calls) == sum(count for _, count, _ in answers)


def test_no_prompts_give_no_answers_and_empty_prompts_are_refused(model, tokenizer):
    options = {"tokenizer": tokenizer, "max_new_tokens": 2}
    assert generate(model, [], batch_size=4, **options) == []
    with pytest.raises(ValueError):
        generate(model, [[1], []], batch_size=4, **options)
    with pytest.raises(ValueError):
        generate(model, [[1]], batch_size=0, **options)


def test_a_model_that_padding_changes_is_asked_in_batches_of_one_length(tokenizer, caplog):
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "attention_hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    recurrent = RwkvForCausalLM(RwkvConfig(vocab_size=len(tokenizer), context_length=64, **sizes))
    for parameter in recurrent.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    options = {"tokenizer": tokenizer, "max_new_tokens": 4}
    alone = [generate(recurrent, [prompt], batch_size=1, **options)[0] for prompt in PROMPTS]
    with caplog.at_level("INFO", "sealtune"):
        assert generate(recurrent, PROMPTS, batch_size=8, **options) == alone
    assert "batches of one length" in caplog.text
    batched = [[1, 2, 3], [7, 8, 9], [4]]
    counts = []
    generate(recurrent, batched, batch_size=8, on_batch=lambda done, *_: counts.append(done), **options)
    assert counts == [2, 3]
