import pytest
import torch

from helpers.tiny import random_rows, tiny_model
from sealtune.core.config import RankConfig
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.data.batches import Batches
from sealtune.models.adapters import full_players, lora_players
from sealtune.models.load import load_model

SETTINGS = RankConfig(per_device_train_batch_size=4, learning_rate=0.01, lora_target_modules="all-linear")


def players(settings=SETTINGS):
    model = tiny_model()
    return model, lora_players(model, settings, ["theta", "theta_hat"], seed=0)


def batch(n=6, size=6):
    return Batches(random_rows(n), size, seed=0).at(0)


def snapshot(parameters):
    return [p.detach().clone() for p in parameters]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def base_parameters(model):
    return [p for n, p in model.named_parameters() if "lora" not in n]


@pytest.mark.parametrize("trained, other", [("theta", "theta_hat"), ("theta_hat", "theta")])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_training_one_adapter_leaves_the_other_and_the_base_unchanged(trained, other, gradient_checkpointing):
    model, both = players(SETTINGS.model_copy(update={"gradient_checkpointing": gradient_checkpointing}))
    before_base, before_trained = snapshot(base_parameters(model)), snapshot(both[trained].parameters)
    before_other = snapshot(both[other].parameters)
    assert len(before_trained) == 2 * 2 * 7  # A and B of seven linear layers in two blocks
    for _ in range(3):
        both[other].learn(batch(), torch.zeros(6))  # forward only
        both[trained].learn(batch(), torch.ones(6))
        assert all(p.grad is None for p in both[other].parameters)
        assert all(p.grad is None for p in base_parameters(model))
        both[trained].descend()
    assert same(before_base, base_parameters(model))
    assert same(before_other, both[other].parameters)
    assert not any(torch.equal(x, y) for x, y in zip(before_trained, both[trained].parameters, strict=True))


def test_gradient_checkpointing_recomputes_with_the_adapter_that_was_active():
    """Two adapters, trained alternately with gradient accumulation, get the same bits as without checkpointing."""
    found = []
    for checkpointing in (False, True):
        _, both = players(SETTINGS.model_copy(update={"gradient_checkpointing": checkpointing}))
        for turn in range(3):
            for size in (4, 6):  # two backward passes before a step
                for name, weight in (("theta", 1.0), ("theta_hat", -0.5)):
                    both[name].learn(batch(size=size), torch.full((size,), weight + turn))
            for name in ("theta_hat", "theta"):
                both[name].descend()
        found.append([snapshot(both[name].parameters) for name in ("theta", "theta_hat")])
    for plain, recomputed in zip(*found, strict=True):
        assert same(plain, recomputed)
    assert not same(*found[0])


def test_adapters_start_equal_and_diverge():
    _, both = players()
    rows, ones = batch(), torch.ones(6)
    first = [both[name].learn(rows, ones) for name in both]
    assert torch.equal(*first)
    both["theta"].descend()
    assert (both["theta"].learn(rows, 0 * ones) < first[0]).any()
    torch.testing.assert_close(both["theta_hat"].learn(rows, 0 * ones), first[0])


def test_gradients_of_micro_batches_add_up_to_the_gradient_of_the_batch():
    weights = torch.linspace(0.1, 2, 6)
    gradients = []
    for size in (6, 2):
        _, both = players(SETTINGS.model_copy(update={"per_device_train_batch_size": size}))
        losses = both["theta"].learn(batch(), weights)
        gradients.append([p.grad.clone() for p in both["theta"].parameters])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    assert losses.shape == (6,)


def test_padding_changes_no_loss():
    _, both = players()
    rows = random_rows(6)
    together = both["theta"].learn(Batches(rows, 6, 0).at(0), torch.zeros(6))
    order = Batches(rows, 6, 0).at(0).rows
    for place, row in enumerate(order.tolist()):
        alone = both["theta"].learn(Batches(rows.take([row]), 1, 0).at(0), torch.zeros(1))
        torch.testing.assert_close(alone[0], together[place], rtol=1e-5, atol=1e-6)


def test_full_players_are_independent_models():
    both = full_players(tiny_model(), SETTINGS, ["theta", "theta_hat"], torch.float32)
    before = snapshot(both["theta_hat"].parameters)
    first = both["theta"].learn(batch(), torch.ones(6))
    both["theta"].descend()
    assert (both["theta"].learn(batch(), torch.zeros(6)).mean()) < first.mean()
    assert same(before, both["theta_hat"].parameters)


def test_the_gradient_of_a_full_player_equals_that_of_transformers():
    (player,) = full_players(tiny_model(), SETTINGS, ["theta"], torch.float32).values()
    rows = random_rows(1)
    player.learn(Batches(rows, 1, 0).at(0), torch.ones(1))
    reference = tiny_model()
    tokens = torch.from_numpy(rows.tokens).long()[None]
    reference(input_ids=tokens, labels=tokens.masked_fill(~torch.from_numpy(rows.mask)[None], -100)).loss.backward()
    for a, b in zip(player.parameters, reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7)


def test_a_restored_player_continues_bit_for_bit():
    def steps(player, count):
        for _ in range(count):
            player.learn(batch(), torch.ones(6))
            player.descend()

    uninterrupted, first, second = (players()[1]["theta"] for _ in range(3))
    steps(uninterrupted, 5)
    steps(first, 2)
    second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
    steps(second, 3)
    assert same(uninterrupted.parameters, second.parameters)


def test_unknown_target_modules_are_a_user_error():
    with pytest.raises(UserError, match="lora_target_modules"):
        players(SETTINGS.model_copy(update={"lora_target_modules": ["no_such_layer"]}))


def test_adapters_on_a_four_bit_base_are_trained_and_the_base_is_not(tmp_path):
    pytest.importorskip("bitsandbytes")
    tiny_model(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
    config = build_config({"model_name_or_path": str(tmp_path), "load_in_4bit": True, "dtype": "float32"})
    model = load_model(config)
    assert type(model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    before = model.model.layers[0].mlp.up_proj.weight.clone()
    both = lora_players(model, SETTINGS, ["theta", "theta_hat"], seed=0)
    first = both["theta"].learn(batch(), torch.ones(6))
    for _ in range(5):
        both["theta"].descend()
        both["theta"].learn(batch(), torch.ones(6))
    assert both["theta"].learn(batch(), torch.zeros(6)).mean() < first.mean() - 0.05
    torch.testing.assert_close(both["theta_hat"].learn(batch(), torch.zeros(6)), first, rtol=1e-5, atol=1e-5)
    assert torch.equal(before, model.model.layers[0].mlp.up_proj.base_layer.weight)


def test_a_player_that_gets_no_gradient_is_rejected():
    _, both = players()
    both["theta"].model.hidden_states = lambda tokens: torch.zeros(*tokens.shape, 32, requires_grad=True)
    both["theta"].learn(batch(), torch.ones(6))
    with pytest.raises(UserError, match="no gradient reaches"):
        both["theta"].descend()
