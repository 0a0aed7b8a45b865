import math

import numpy as np
import pytest
import torch

from helpers.chat_tokenizers import chatml_tokenizer
from helpers.few_prompts import all_shipped
from helpers.tiny import tiny_model
from sealtune.core.errors import RunError
from sealtune.core.types import Prompt
from sealtune.evaluation.likelihood import (
    EncodedPrompt,
    PromptLikelihood,
    encode_prompts,
    measure_prompts,
    with_default,
)
from sealtune.evaluation.likelihood_table import Measured, PairMargin, PromptDivergence, tabulate, threshold_values

OPENINGS = ((20, 21), (22,))


def asked(kind, n=1):
    return [Prompt(f"{kind}-{i}", "red or blue", "own", kind) for i in range(n)]


def test_prompts_that_are_shipped_are_added_unless_both_kinds_are_given(monkeypatch):
    monkeypatch.setattr("sealtune.evaluation.likelihood.default_prompts", all_shipped)
    shipped = all_shipped()
    assert {p.kind for p in shipped} == {"harmful", "harmless"}
    assert len({p.id for p in shipped}) == len(shipped)
    assert with_default([]) == [*shipped]
    assert with_default(asked("harmful")) == [*asked("harmful"), *shipped]
    both = asked("harmful") + asked("harmless")
    assert with_default(both) == both


def test_longer_prompts_are_counted():
    long = Prompt("long", "red " * 100, "own", "harmful")
    found, dropped = encode_prompts([*asked("harmless"), long, *asked("harmful")], chatml_tokenizer(), 80)
    assert [e.prompt.kind for e in found] == ["harmful", "harmless"]
    assert dropped == 1


def test_the_log_probability_of_a_refusal_and_its_log_odds():
    model = tiny_model()
    prompt = EncodedPrompt(asked("harmful")[0], [5, 6, 7])
    (found,) = measure_prompts(model, "base", [prompt], OPENINGS, 4, lambda *call: None)
    with torch.no_grad():
        first = model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False).logits[0, -1].softmax(0)
        after = model(input_ids=torch.tensor([[5, 6, 7, 20]]), use_cache=False).logits[0, -1].softmax(0)
    assert math.exp(found.refusal_log_prob) == pytest.approx(float(first[20] * after[21] + first[22]), rel=1e-4)
    p = math.exp(found.refusal_log_prob)
    assert found.log_odds == pytest.approx(math.log(p / (1 - p)), abs=1e-4)


def test_a_log_probability_that_is_not_finite_is_an_error(monkeypatch):
    nan = torch.full((1,), float("nan"))
    monkeypatch.setattr("sealtune.evaluation.likelihood.refusal_log_probs", lambda *args: nan)
    prompt = EncodedPrompt(asked("harmful")[0], [5, 6, 7])
    with pytest.raises(RunError, match=r"log-probabilities of tuned are not finite on the prompts harmful-0"):
        measure_prompts(tiny_model(), "tuned", [prompt], OPENINGS, 4, lambda *call: None)


def measured(name, shift, n=40, pairs=False):
    rng = np.random.default_rng(0)
    odds = {"harmful": rng.normal(1, 1, n) + shift, "harmless": rng.normal(-1, 1, n)}
    prompts = [
        PromptLikelihood(f"{kind}-{i}", name, f"set-{i % 2}", kind, float(value), -1.0)
        for kind, values in odds.items()
        for i, value in enumerate(values)
    ]
    margins = [PairMargin(str(i), 2.0 + shift, 0.5) for i in range(5)] if pairs else []
    return Measured(prompts, margins, [PromptDivergence("a", [1.0, 3.0]), PromptDivergence("b", [2.0])])


def rows_of(table, model):
    return {(r["measure"], r["kind"], r["set"]): r for r in table if r["model"] == model}


def test_the_table_has_both_models_and_their_paired_differences():
    start = measured("base", 0, pairs=True)
    start = Measured(start.prompts, start.pairs)
    table = tabulate({"base": start, "tuned": measured("tuned", -1, pairs=True)})
    keys = {"model", "set", "kind", "judge", "measure", "title", "unit", "value", "low", "high", "n"}
    assert all(row.keys() >= keys for row in table)
    base, tuned = (rows_of(table, model) for model in ("base", "tuned"))
    for measure, kind in [
        ("discrimination", "all"),
        ("J", "all"),
        ("refusal_rate", "harmful"),
        ("log_odds", "harmful"),
    ]:
        before, after = base[measure, kind, "all"], tuned[measure, kind, "all"]
        assert "difference" not in before
        assert after["difference"]["value"] == pytest.approx(after["value"] - before["value"])
        assert after["value"] < before["value"]
    assert tuned["log_odds", "harmful", "all"]["difference"]["low"] == pytest.approx(-1)
    assert tuned["refusal_rate", "harmless", "all"]["difference"]["value"] == 0
    assert {key[2] for key in tuned if key[0] == "refusal_rate"} == {"all", "set-0", "set-1"}
    assert base["pair_margin", "", "pairs"]["value"] == 2
    assert tuned["pair_margin", "", "pairs"]["difference"]["value"] == -1
    assert tuned["pair_margin_per_token", "", "pairs"]["difference"]["value"] == 0
    assert ("kl", "harmful", "all") not in base
    kl = tuned["kl", "harmful", "all"]
    assert (kl["value"], kl["per_position"]) == (2, [1.5, 3])


def test_without_a_start_model_there_is_no_difference():
    models = {"tuned": measured("tuned", 0)}
    assert threshold_values(models) == (0, 0)
    assert not [row for row in tabulate(models) if "difference" in row]
