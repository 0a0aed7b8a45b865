import shutil

import pytest
import torch

from helpers.tiny import random_rows, tiny_model
from sealtune.core.config import RankConfig
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.data.batches import Batches
from sealtune.models.adapters import full_players, lora_players
from sealtune.models.causal_lm import dataset_losses
from sealtune.ranking.job import Job
from sealtune.ranking.safe_set import make_players

SETTINGS = RankConfig(per_device_train_batch_size=4, learning_rate=0.01, lora_target_modules="all-linear")


def players(settings=SETTINGS, **changes):
    model = tiny_model(**changes)
    return model, lora_players(model, settings, ["theta", "theta_hat"], seed=0)


def batch(n=6, size=6):
    return Batches(random_rows(n), size, seed=0).at(0)


def snapshot(parameters):
    return [p.detach().clone() for p in parameters]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def base_parameters(model):
    return [p for n, p in model.named_parameters() if "lora" not in n]


@pytest.mark.parametrize("mover, other", [("theta", "theta_hat"), ("theta_hat", "theta")])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_each_adapter_moves_only_itself(mover, other, gradient_checkpointing):
    model, both = players(SETTINGS.model_copy(update={"gradient_checkpointing": gradient_checkpointing}))
    before_base, before_mover = snapshot(base_parameters(model)), snapshot(both[mover].parameters)
    before_other = snapshot(both[other].parameters)
    assert len(before_mover) == 2 * 2 * 7  # A and B of seven linear layers in two blocks
    for _ in range(3):
        both[other].learn(batch(), torch.zeros(6))  # a forward pass of the other in between changes nothing
        both[mover].learn(batch(), torch.ones(6))
        assert all(p.grad is None for p in both[other].parameters)
        assert all(p.grad is None for p in base_parameters(model))
        both[mover].descend()
    assert same(before_base, base_parameters(model))
    assert same(before_other, both[other].parameters)
    assert not any(torch.equal(x, y) for x, y in zip(before_mover, both[mover].parameters, strict=True))


def test_checkpointing_recomputes_with_the_adapter_that_was_active():
    """Both adapters learn by turns, accumulate, and become what they become without checkpoints, to the bit."""
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


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a compiler on a CPU")
def test_a_compiled_model_learns_the_same():
    found = []
    for compiled in (False, True):
        job = Job(random_rows(6), random_rows(3), compiling(compiled), lambda full: tiny_model())
        theta = make_players(job, ["theta"])["theta"]
        losses = []
        for size in (6, 4):  # another length, too
            losses.append(theta.learn(batch(size=size), torch.linspace(0.1, 2, size)))
            theta.descend()
        found.append((losses, snapshot(theta.parameters), theta.model.extract_features(next(batch().split(6)))))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def compiling(compiled):
    rank = {"learning_rate": 0.01, "per_device_train_batch_size": 6, "torch_compile": compiled}
    return build_config({"model_name_or_path": "m", "dtype": "float32", "rank": rank})


def test_nothing_is_compiled_where_nothing_can_be(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no compiler\nfound")

    monkeypatch.setattr(torch, "compile", fail)
    job = Job(random_rows(6), random_rows(3), compiling(True), lambda full: tiny_model())
    with pytest.raises(UserError, match=r"rank.torch_compile: nothing can be compiled on this machine \(no compiler f"):
        make_players(job, ["theta"])


def test_adapters_start_equal_and_their_losses_part():
    _, both = players()
    rows, ones = batch(), torch.ones(6)
    first = [both[name].learn(rows, ones) for name in both]
    assert torch.equal(*first)
    both["theta"].descend()
    assert (both["theta"].learn(rows, 0 * ones) < first[0]).any()
    torch.testing.assert_close(both["theta_hat"].learn(rows, 0 * ones), first[0])


def test_gradients_of_micro_batches_add_up_to_that_of_the_batch():
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


def test_full_players_are_whole_models_of_their_own():
    both = full_players(tiny_model(), SETTINGS, ["theta", "theta_hat"], torch.float32)
    before = snapshot(both["theta_hat"].parameters)
    first = both["theta"].learn(batch(), torch.ones(6))
    both["theta"].descend()
    assert (both["theta"].learn(batch(), torch.zeros(6)).mean()) < first.mean()
    assert same(before, both["theta_hat"].parameters)


def test_full_player_gradient_equals_transformers():
    (player,) = full_players(tiny_model(), SETTINGS, ["theta"], torch.float32).values()
    rows = random_rows(1)
    player.learn(Batches(rows, 1, 0).at(0), torch.ones(1))
    reference = tiny_model()
    tokens = torch.from_numpy(rows.tokens).long()[None]
    reference(input_ids=tokens, labels=tokens.masked_fill(~torch.from_numpy(rows.mask)[None], -100)).loss.backward()
    for a, b in zip(player.parameters, reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7)


def test_state_goes_on_bit_for_bit():
    def steps(player, count):
        for _ in range(count):
            player.learn(batch(), torch.ones(6))
            player.descend()

    whole, first, second = (players()[1]["theta"] for _ in range(3))
    steps(whole, 5)
    steps(first, 2)
    second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
    steps(second, 3)
    assert same(whole.parameters, second.parameters)


def test_data_set_losses_come_in_their_own_places():
    rows = random_rows(7)
    found = torch.empty(7, dtype=torch.float64)
    for places, losses in dataset_losses(tiny_model(), rows, batch_size=3):
        found[places] = losses
    _, both = players()
    for i in range(7):
        alone = both["theta"].learn(Batches(rows.take([i]), 1, 0).at(0), torch.zeros(1))
        torch.testing.assert_close(found[i], alone[0], rtol=1e-5, atol=1e-6)


def test_unknown_target_modules_are_a_users_fault():
    with pytest.raises(UserError, match="lora_target_modules"):
        players(SETTINGS.model_copy(update={"lora_target_modules": ["no_such_layer"]}))


def test_a_model_that_changes_its_logits_is_refused():
    model = tiny_model()
    forward = model.forward

    def twisted(*args, **kwargs):
        result = forward(*args, **kwargs)
        result.logits = result.logits * 2 + 1
        return result

    model.forward = twisted
    with pytest.raises(UserError, match="not supported"):
        lora_players(model, SETTINGS, ["theta"], seed=0)


def test_four_bit_players_learn_and_their_base_stays(tmp_path):
    pytest.importorskip("bitsandbytes")
    from sealtune.core.config_io import build_config
    from sealtune.models.load import load_model

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


def test_a_player_that_no_gradient_reaches_is_refused():
    _, both = players()
    both["theta"].model.hidden_states = lambda tokens: torch.zeros(*tokens.shape, 32, requires_grad=True)
    both["theta"].learn(batch(), torch.ones(6))
    with pytest.raises(UserError, match="no gradient reaches"):
        both["theta"].descend()
