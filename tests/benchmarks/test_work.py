"""No part of the pipeline does more work than is written down, whatever the speed of this machine."""

import json
from functools import partial

import pytest

from benchmarks.cost import work
from benchmarks.lib.tiny_inputs import save_model
from helpers.benchmarks import ROOT

STORED = json.loads((ROOT / "benchmarks/results/work.json").read_text(encoding="utf-8"))["work"]
TOLERANCE = {"operations": 0.01, "passes": 0, "tokens": 0.01, "peak_bytes": 0.1}
STORE = "; if that is meant, store it: python benchmarks/cost/work.py --output benchmarks/results/work.json"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(folder)
    return str(folder)


@pytest.mark.parametrize("part", work.PARTS)
def test_a_part_does_the_work_that_is_stored(part, model):
    found = work.count(partial(work.PARTS[part], model))
    for figure, expected in STORED[part].items():
        share = found[figure] / expected - 1
        assert abs(share) <= TOLERANCE[figure], f"{part}: {figure} changed by {share:+.1%}{STORE}"


def test_every_part_is_stored_and_the_guard_does_more_than_plain_tuning():
    assert STORED["guard"]["operations"] > STORED["tune"]["operations"]
    assert STORED.keys() == work.PARTS.keys()


def test_one_more_pass_is_seen(model):
    network, tokenizer = work.loaded(model)
    ids = tokenizer("red fox", return_tensors="pt").input_ids
    one, two = (work.count(lambda n=n: [network(ids) for _ in range(n)]) for n in (1, 2))
    assert (one["passes"], two["passes"]) == (1, 2)
    assert two["tokens"] == 2 * one["tokens"] and two["operations"] == 2 * one["operations"] > 0
