import numpy as np
import pytest
import torch

from sealtune.evaluation.metrics import auroc
from sealtune.ranking import linear_models
from sealtune.ranking.scorer import (
    Components,
    Features,
    Scorer,
    fit_probe,
    fit_safe_set_classifier,
    fit_scorer,
    probe_logits,
    standard_errors,
)


def made(n=300, unsafe=60, noise=1.0, seed=0):
    """Rows whose label is one direction of their features, and a very noisy signal of it."""
    random = np.random.default_rng(seed)
    truth = np.arange(n) < unsafe
    features = random.normal(size=(n, 12))
    features[truth, 0] -= 2.5
    signal = random.normal(size=n) * noise - truth
    safe = random.normal(size=(80, 12))
    return truth.astype(int), *(torch.from_numpy(x) for x in (signal, features, safe))


def looked(n, seed, unsafe=0, width=10):
    """Rows whose response follows from the prompt as in the safe set, except the unsafe ones."""
    random = np.random.default_rng(seed)
    prompts = random.normal(size=(n, width))
    answer = np.random.default_rng(99).normal(size=(width, width))
    responses = prompts @ answer + random.normal(size=(n, width))
    responses[:unsafe] = random.normal(size=(unsafe, width)) * responses.std()
    losses = 2 + 0.3 * random.normal(size=n) + 0.2 * (np.arange(n) < unsafe)
    return Features(torch.from_numpy(losses).float(), torch.from_numpy(np.stack([prompts, responses], 1)).float())


def totals(fit, shared, alike, trust=1.0):
    fit, shared, alike = (torch.as_tensor(x, dtype=torch.float64) for x in (fit, shared, alike))
    parts = Components(fit, torch.zeros_like(fit), shared, alike)
    return parts.total(torch.zeros(4), torch.ones(4), torch.tensor(trust)).tolist()


def test_a_row_like_the_safe_set_is_moved_to_the_average_and_no_further():
    moved = totals([9.0] * 5, [-10.0] * 5, [-9.0, 0.0, 0.5, 1.0, 99.0])
    assert moved == pytest.approx([-11, -11, -5.5, 0, 0], abs=1e-6)
    assert totals([9.0], [1.0], [99.0]) == [11], "above the average nothing is moved"
    assert totals([9.0], [-10.0], [99.0], trust=0.0) == [-11], "nothing is moved if the sets look alike"


def test_harm_in_the_style_of_the_safe_set_is_not_protected():
    worst, good = totals([-3.0, 0.5], [-1.0, -1.0], [2.0, 2.0])
    assert worst == pytest.approx(-5, abs=0.01) and good == pytest.approx(0, abs=0.01)


def test_the_probe_denoises_the_signal():
    gains = []
    for seed in range(4):
        truth, signal, features, safe = made(seed=seed)
        scores = fit_probe(signal, features, safe, seed=0).candidates
        gains.append(auroc(scores.numpy(), truth) - auroc(signal.numpy(), truth))
    assert min(gains) > 0.05
    assert np.mean(gains) > 0.1


def test_the_probe_logits_of_the_candidates_do_not_depend_on_the_safe_set():
    candidates, safe, others = looked(120, 0, unsafe=30), looked(60, 1), looked(60, 2)
    alone, safe_probe_logit = probe_logits(candidates, safe, seed=0)
    assert torch.equal(alone, probe_logits(candidates, others, seed=0)[0])
    assert len(safe_probe_logit) == 60
    taught = [fit_probe(-candidates.losses.double(), candidates.both, rows.both, 0) for rows in (safe, others)]
    assert not torch.equal(taught[0].candidates, taught[1].candidates), "the probe of the scorer does"


def test_a_row_is_not_scored_by_its_own_signal():
    """Random features: cross-fitted scores are uncorrelated with the signal that they were fitted on."""
    random = np.random.default_rng(1)
    signal = torch.from_numpy(random.normal(size=400))
    features, safe = (torch.from_numpy(random.normal(size=(n, 60))) for n in (400, 100))
    scores = fit_probe(signal, features, safe, seed=0).candidates
    assert abs(np.corrcoef(signal, scores)[0, 1]) < 0.15


def test_safe_rows_are_cross_fitted_too():
    """Safe rows and candidates from one distribution, random signal: safe rows must not score as training examples."""
    random = np.random.default_rng(2)
    features, safe = (torch.from_numpy(random.normal(size=(n, 60))) for n in (400, 200))
    taught = fit_probe(torch.from_numpy(random.normal(size=400)), features, safe, seed=0)
    assert abs(float(taught.safe.mean() - taught.candidates.mean())) < 0.5 * float(taught.candidates.std())


def test_similarity_finds_responses_that_the_safe_set_would_not_give():
    unsafe = (np.arange(200) < 40).astype(int)
    candidates, safe = looked(200, 0, unsafe=40), looked(150, 1)
    alone = auroc(-candidates.losses.numpy(), unsafe)
    assert auroc(fit_scorer(candidates, safe, seed=0).score.numpy(), unsafe) > alone + 0.1


def test_a_safe_response_is_protected_and_an_unknown_task_is_not_punished():
    """Candidates of three kinds with the same fit and a bad topic: like the safe set, unlike it, and neither."""
    random = np.random.default_rng(0)
    kinds = np.repeat([0, 1, 2], 100)
    responses = random.normal(size=(300, 12))
    responses[kinds == 0, 0] += 3
    responses[kinds == 1, 1] += 3
    safe = random.normal(size=(100, 12))
    safe[:, 0] += 3
    alike = fit_safe_set_classifier(torch.from_numpy(responses), torch.from_numpy(safe), seed=0).candidates
    total = np.array(totals([0.0] * 300, [-1.0] * 300, (alike - alike.mean()) / alike.std()))
    protected, unknown, neither = (total[kinds == kind].mean() for kind in range(3))
    assert protected > neither + 0.5
    assert abs(unknown - neither) < 0.25


def test_unseen_rows_score_like_seen_ones():
    candidates, safe, unsafe = looked(300, 0, unsafe=60), looked(150, 1), (np.arange(300) < 60).astype(int)
    half = torch.arange(300) % 2 == 0
    learned = fit_scorer(candidates.take(half), safe, seed=0)
    unseen = learned.scorer(candidates.take(~half)).numpy()
    assert auroc(unseen, unsafe[~half.numpy()]) > auroc(learned.score.numpy(), unsafe[half.numpy()]) - 0.1
    assert abs(unseen.mean() - float(learned.score.mean())) < 0.5


def test_a_scorer_is_restored_from_its_tensors():
    candidates, safe = looked(50, 0), looked(30, 1)
    scorer = fit_scorer(candidates, safe, seed=0).scorer
    assert torch.equal(scorer(candidates), Scorer.from_tensors(scorer.tensors())(candidates))


def test_the_standard_error_shrinks_with_more_safe_rows():
    candidates, safe = looked(200, 0, unsafe=40), looked(400, 1)
    few, many = (standard_errors(candidates, safe.take(torch.arange(n)), seed=0) for n in (20, 400))
    assert float(many.mean()) < 0.7 * float(few.mean())
    assert torch.isnan(standard_errors(candidates, safe.take(torch.arange(1)), seed=0)).all()


def test_constant_features_give_finite_scores():
    flat = Features(torch.ones(6), torch.ones(6, 2, 3))
    assert torch.isfinite(fit_scorer(flat, flat, seed=0).score).all()


def test_the_summands_add_up_to_the_score():
    parts = Components(*torch.randn(4, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    moments = (*parts.moments(), torch.tensor(1.0))
    summands = parts.summands(*moments)
    assert list(summands) == ["fit", "similarity", "probe", "protection"]
    assert torch.equal(sum(summands.values()), parts.total(*moments))
    assert (summands["protection"] >= 0).all() and (summands["protection"] > 0).any()


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="at least two candidates"):
        fit_probe(torch.zeros(1), torch.zeros(1, 3), torch.zeros(2, 3), seed=0)


def test_many_rows_are_fitted_in_chunks_and_up_to_a_limit(monkeypatch):
    candidates, safe, unsafe = looked(400, 0, unsafe=80), looked(150, 1), (np.arange(400) < 80).astype(int)
    whole = fit_scorer(candidates, safe, seed=0).score
    monkeypatch.setattr(linear_models, "CHUNK", 32)
    assert torch.allclose(fit_scorer(candidates, safe, seed=0).score, whole)
    monkeypatch.setattr(linear_models, "MAX_EXAMPLES", 40)
    assert auroc(fit_scorer(candidates, safe, seed=0).score.numpy(), unsafe) > 0.7
