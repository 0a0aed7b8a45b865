import shutil

import pytest
import torch

from helpers.tiny import random_rows, tiny_model
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.data.batches import Batches
from sealtune.models.causal_lm import CausalLM, dataset_losses
from sealtune.ranking.job import Job
from sealtune.ranking.safe_set import make_players


def batch(size=6):
    return Batches(random_rows(6), size, seed=0).at(0)


def snapshot(parameters):
    return [p.detach().clone() for p in parameters]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a compiler on a CPU")
def test_a_compiled_model_is_trained_like_an_uncompiled_one():
    found = []
    for compiled in (False, True):
        job = Job(random_rows(6), random_rows(3), compile_config(compiled), lambda full: tiny_model())
        theta = make_players(job, ["theta"])["theta"]
        losses = []
        for size in (6, 4):  # the second has another length
            losses.append(theta.learn(batch(size=size), torch.linspace(0.1, 2, size)))
            theta.descend()
        found.append((losses, snapshot(theta.parameters), theta.model.extract_features(next(batch().split(6)))))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def compile_config(compiled):
    rank = {"learning_rate": 0.01, "per_device_train_batch_size": 6, "torch_compile": compiled}
    return build_config({"model_name_or_path": "m", "dtype": "float32", "rank": rank})


def test_a_machine_without_a_compiler_is_a_user_error(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no compiler\nfound")

    monkeypatch.setattr(torch, "compile", fail)
    job = Job(random_rows(6), random_rows(3), compile_config(True), lambda full: tiny_model())
    with pytest.raises(UserError, match=r"rank.torch_compile: nothing can be compiled on this machine \(no compiler f"):
        make_players(job, ["theta"])


def test_dataset_losses_come_with_their_positions():
    rows = random_rows(7)
    found = torch.empty(7, dtype=torch.float64)
    for positions, losses in dataset_losses(tiny_model(), rows, batch_size=3):
        found[positions] = losses
    causal_lm = CausalLM(tiny_model())
    for i in range(7):
        (alone,) = Batches(rows.take([i]), 1, 0).at(0).split(1)
        expected = causal_lm.losses(alone.tokens, alone.mask).detach().double()
        torch.testing.assert_close(found[i], expected[0], rtol=1e-5, atol=1e-6)


def test_a_model_that_postprocesses_its_logits_is_rejected():
    model = tiny_model()
    forward = model.forward

    def postprocessed(*args, **kwargs):
        result = forward(*args, **kwargs)
        result.logits = result.logits * 2 + 1
        return result

    model.forward = postprocessed
    with pytest.raises(UserError, match="not supported"):
        CausalLM(model)
