"""The rows that are most alike, by the cosine of standardised features."""

import numpy as np
import torch

from sealtune.core.string_array import StringArray
from sealtune.ranking import neighbours as module
from sealtune.ranking.neighbours import ROWS, SAFE_ROWS, neighbours


def names(prefix, n):
    return StringArray.of([f"{prefix}{i}" for i in range(n)])


def random(n, seed=0, d=5):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


def test_they_are_those_of_the_simple_implementation(monkeypatch):
    monkeypatch.setattr("sealtune.ranking.linear_models.CHUNK", 7)  # several chunks
    features, safe = random(30) * 3 + 1, random(9, 1)
    found = neighbours(features, safe, names("r", 30), names("s", 9))
    both = torch.cat([features, safe])
    scaled = (both - both.mean(0)) / both.std(0, unbiased=False)
    unit = scaled / scaled.norm(dim=1, keepdim=True)
    for i in range(30):
        alike = unit @ unit[i]
        order = [j for j in alike[:30].argsort(descending=True).tolist() if j != i]
        assert found[f"r{i}"].rows == tuple(f"r{j}" for j in order[:ROWS])
        assert found[f"r{i}"].safe == tuple(f"s{j}" for j in alike[30:].argsort(descending=True).tolist()[:SAFE_ROWS])


def test_a_copy_is_the_nearest_row():
    features = random(12)
    features[7] = features[2]
    found = neighbours(features, random(3, 1), names("r", 12), names("s", 3))
    assert found["r7"].rows[0] == "r2" and found["r2"].rows[0] == "r7"


def test_few_rows_have_few_and_many_have_none(monkeypatch):
    found = neighbours(random(2), random(1, 1), names("r", 2), names("s", 1))
    assert found["r0"] == ("r0", ("r1",), ("s0",))
    monkeypatch.setattr(module, "MAX_ROWS", 5)
    assert neighbours(random(6), random(1, 1), names("r", 6), names("s", 1)) == {}
