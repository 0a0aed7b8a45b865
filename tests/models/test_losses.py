import pytest
import torch

from helpers.tiny import tiny_model
from sealtune.models import losses
from sealtune.models.losses import Head, row_losses


def naive_row_losses(hidden, head, tokens, mask):
    """The definition, row by row and token by token."""
    values = []
    for h, t, m in zip(hidden, tokens, mask, strict=True):
        log_probability = torch.log_softmax(head.logits(h), dim=-1)
        terms = [-log_probability[i - 1, t[i]] for i in range(1, len(t)) if m[i]]
        values.append(torch.stack(terms).mean() if terms else torch.zeros(()))
    return torch.stack(values)


@pytest.fixture
def problem(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_LOGITS", 3 * 50)  # three tokens per chunk
    torch.manual_seed(0)
    hidden = torch.randn(4, 9, 16, requires_grad=True)
    tokens = torch.randint(0, 50, (4, 9))
    mask = torch.rand(4, 9) < 0.5
    mask[3] = False
    return hidden, tokens, mask


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("trained", [False, True])
def test_losses_and_gradients_equal_the_definition(problem, softcap, scale, trained):
    hidden, tokens, mask = problem
    head = Head(torch.randn(50, 16, requires_grad=trained), torch.randn(50), scale, softcap)
    upstream = torch.tensor([1.0, -2.0, 0.5, 3.0])
    wanted = [hidden, head.weight] if trained else [hidden]

    expected = naive_row_losses(hidden, head, tokens, mask)
    expected_gradients = torch.autograd.grad((expected * upstream).sum(), wanted)
    found = row_losses(hidden, head, tokens, mask)
    found_gradients = torch.autograd.grad((found * upstream).sum(), wanted)

    torch.testing.assert_close(found, expected)
    for a, b in zip(found_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_row_without_response_tokens_has_loss_zero(problem):
    hidden, tokens, mask = problem
    assert row_losses(hidden, Head(torch.randn(50, 16)), tokens, mask)[3] == 0


def test_the_loss_equals_that_of_transformers():
    model = tiny_model()
    tokens = torch.randint(3, 300, (1, 12))
    mask = torch.arange(12)[None] >= 5
    expected = model(input_ids=tokens, labels=tokens.masked_fill(~mask, -100)).loss
    hidden = model.base_model(input_ids=tokens).last_hidden_state
    found = row_losses(hidden, Head(model.lm_head.weight.detach()), tokens, mask)
    torch.testing.assert_close(found[0], expected)


def test_no_tensor_is_as_large_as_tokens_times_vocabulary(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_LOGITS", 1000)
    largest = 0
    original = Head.logits

    def measure(self, hidden):
        nonlocal largest
        logits = original(self, hidden)
        largest = max(largest, logits.numel())
        return logits

    monkeypatch.setattr(Head, "logits", measure)
    hidden = torch.randn(3, 40, 8, requires_grad=True)
    mask = torch.ones(3, 40, dtype=torch.bool)
    row_losses(hidden, Head(torch.randn(100, 8)), torch.randint(0, 100, (3, 40)), mask).sum().backward()
    assert largest == 1000
