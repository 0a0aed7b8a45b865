import math

import torch

from helpers.chat_tokenizers import chatml_tokenizer
from helpers.tiny import tiny_model
from sealtune.evaluation import kl
from sealtune.evaluation.kl import divergences, references
from sealtune.models import predictions

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [15]]


def full_divergence(start, own, prompt, tokens):
    ids = torch.tensor([[*prompt, *tokens]])
    first, second = (
        model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].double().log_softmax(1)
        for model in (start, own)
    )
    return (first.exp() * (first - second)).sum(1)


@torch.no_grad()
def test_with_all_tokens_it_is_the_divergence_along_the_greedy_answer(monkeypatch):
    tokenizer = chatml_tokenizer()
    start, own = (tiny_model(seed, vocab_size=len(tokenizer)) for seed in (0, 1))
    monkeypatch.setattr(predictions, "TOP", len(tokenizer))
    found = references(start, list("abc"), PROMPTS, tokenizer, 2)
    assert [reference.id for reference in found] == list("abc")
    for prompt, reference, nats in zip(PROMPTS, found, divergences(own, PROMPTS, found, 2), strict=True):
        expected = full_divergence(start, own, prompt, reference.tokens)
        torch.testing.assert_close(torch.tensor(nats, dtype=torch.float64), expected, rtol=1e-3, atol=1e-4)
        logits = start(input_ids=torch.tensor([[*prompt, *reference.tokens]]), use_cache=False).logits[0]
        assert logits[len(prompt) - 1 : -1].argmax(1).tolist() == reference.tokens


@torch.no_grad()
def test_the_start_model_has_no_divergence_and_few_tokens_give_a_lower_bound(monkeypatch):
    tokenizer = chatml_tokenizer()
    start, own = (tiny_model(seed, vocab_size=len(tokenizer)) for seed in (0, 1))
    found = references(start, list("abc"), PROMPTS, tokenizer, 2)
    assert all(len(reference.ids[0]) == predictions.TOP for reference in found)
    assert max(abs(nats) for row in divergences(start, PROMPTS, found, 3) for nats in row) < 1e-6
    for prompt, reference, nats in zip(PROMPTS, found, divergences(own, PROMPTS, found, 2), strict=True):
        expected = full_divergence(start, own, prompt, reference.tokens)
        assert (torch.tensor(nats) <= expected + 1e-5).all()
        assert min(nats) >= 0


def test_the_other_tokens_are_one_event():
    start, own = (torch.tensor([p]).log() for p in ([0.5, 0.3, 0.1, 0.1], [0.2, 0.2, 0.3, 0.3]))
    expected = 0.5 * math.log(0.5 / 0.2) + 0.3 * math.log(0.3 / 0.2) + 0.2 * math.log(0.2 / 0.6)
    top = predictions.TopLogProbs(torch.tensor([[0, 1]]), start[:, :2], torch.tensor([0.2]).log())
    assert math.isclose(predictions.divergence(top, predictions.Predictions(own)).item(), expected, rel_tol=1e-5)


def test_an_answer_ends_with_its_end_token():
    assert kl._until_end([4, 5, 2, 0, 0], [2]) == [4, 5, 2]
    assert kl._until_end([4, 5], [2]) == [4, 5]
