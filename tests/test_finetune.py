"""The final fine-tuning: our loss at response positions against TRL's own at all positions."""

from __future__ import annotations

import pytest
import torch
from trl import SFTTrainer

from sealtune.config import build_config
from sealtune.finetune import train
from sealtune.material import Material
from sealtune.models import load_model


def tuned(config, trainer_class=None):
    material = Material(config)
    model, log = train(
        load_model(config, full=not config.tune.use_peft),
        material.tokenizer,
        material.candidates[0],
        config,
        lambda *_: None,
        trainer_class,
    )
    weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    return weights, [record["loss"] for record in log]


@pytest.mark.parametrize(("use_peft", "rate"), [(True, 0.01), (False, 0.001)])
def test_the_response_loss_trains_as_trl_does(project, use_peft, rate):
    project["tune"] = {
        "use_peft": use_peft,
        "learning_rate": rate,
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "logging_steps": 1,
    }
    config = build_config(project)
    ours, our_losses = tuned(config)
    theirs, their_losses = tuned(config, SFTTrainer)
    assert our_losses == pytest.approx(their_losses, rel=1e-4)
    assert len(our_losses) == 6
    assert our_losses[0] != our_losses[-1]
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-3, atol=1e-4)
