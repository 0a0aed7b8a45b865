import numpy as np
import pytest
import torch
from torch import nn

from helpers.tiny import random_rows, tiny_model
from sealtune.core.config_io import build_config
from sealtune.core.errors import RunError, UserError
from sealtune.data.encoded import Encoded
from sealtune.ranking import methods
from sealtune.ranking.job import Job
from sealtune.ranking.methods.gradient import WIDTH, Sketch


def rank(candidates, safe, model=tiny_model, **settings):
    block = {"method": "gradient", "per_device_train_batch_size": 4} | settings
    config = build_config({"model_name_or_path": "tiny", "rank": block})
    records = []
    job = Job(candidates, safe, config, lambda full: model(), lambda record, *rest: records.append(record))
    return methods.rank(job), records


def renamed(rows, prefix):
    return Encoded(tuple(f"{prefix}-{i}" for i in range(len(rows))), rows.source, rows.tokens, rows.mask, rows.bounds)


def test_a_safe_row_scores_above_random_rows():
    safe = random_rows(3, 1, "safe")
    scores, records = rank(random_rows(20).extend(renamed(safe, "twin")), safe)
    assert scores.score[20:].min() > scores.score[:20].max()
    assert (np.abs(scores.score) <= 1).all()
    assert sum(record.rows for record in records) == 26
    assert records[0].candidate_loss is None and records[-1].safe_loss is None


def test_against_one_safe_row_its_twin_has_cosine_one():
    safe = random_rows(1, 1, "safe")
    scores, _ = rank(random_rows(5).extend(renamed(safe, "twin")), safe)
    assert scores.score[5] == pytest.approx(1)
    assert scores.score[:5].max() < 0.9


def test_dropout_and_the_size_of_batches_change_nothing():
    rows, safe = random_rows(7), random_rows(3, 1, "safe")
    scores, _ = rank(rows, safe)
    assert np.array_equal(rank(rows, safe, lora_dropout=0.5, per_device_train_batch_size=2)[0].score, scores.score)
    assert np.array_equal(rank(rows, safe, gradient_checkpointing=True)[0].score, scores.score)


def test_the_sketch_keeps_cosines_and_holds_no_matrix():
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.empty(3000, 16)), nn.Parameter(torch.empty(777))]
    sketch = Sketch(parameters, seed=0)
    shared = [torch.randn_like(p) for p in parameters]
    many = [[s + torch.randn_like(s) for s in shared] for _ in range(12)]
    whole = nn.functional.normalize(torch.stack([torch.cat([t.flatten() for t in own]) for own in many]), dim=1)
    small = nn.functional.normalize(torch.stack([sketch(own) for own in many]), dim=1)
    assert small.shape == (12, WIDTH)
    error = (whole @ whole.T - small @ small.T).fill_diagonal_(0)
    assert error.abs().max() < 0.15
    assert sum(t.nbytes for t in sketch.orders + sketch.signs) == 5 * whole.shape[1]
    assert torch.equal(Sketch(parameters, seed=0)(shared), sketch(shared))
    assert not torch.equal(Sketch(parameters, seed=1)(shared), sketch(shared))


def test_a_non_finite_loss_names_the_row():
    def broken():
        model = tiny_model(tie_word_embeddings=False)
        model.model.embed_tokens.weight.data[7] = torch.nan
        return model

    mask = np.arange(6) > 2
    rows = Encoded.join(["good", "bad"], ["made"] * 2, [(np.arange(20, 26), mask), (np.arange(6, 12), mask)])
    with pytest.raises(RunError, match=r"1 of 2 rows is not finite \(bad\)"):
        rank(rows, rows.take([0]), broken)


def test_an_adapter_on_embeddings_alone_is_refused():
    with pytest.raises(UserError, match="needs linear layers"):
        rank(random_rows(3), random_rows(2, 1, "safe"), lora_target_modules=["embed_tokens"])
