"""The default prompts: as many harmful as harmless ones, twins in pairs, nothing twice."""

import json
from collections import Counter
from importlib.resources import files
from itertools import combinations

import pytest

from sealtune.data.duplicates import WORD, have_twins

TEXT = files("sealtune.evaluation").joinpath("default_prompts.jsonl").read_text(encoding="utf-8")
ROWS = [json.loads(line) for line in TEXT.splitlines()]
BY_ID = {row["id"]: row for row in ROWS}


def prompts(kind, *, twins=None):
    """Prompts of a kind; ``twins``: only those with a twin, or without."""
    return [r["prompt"] for r in ROWS if r["kind"] == kind and (twins is None or (r["twin"] is not None) == twins)]


def words(text):
    return set(WORD.findall(text.casefold()))


def test_there_are_as_many_harmful_as_harmless_prompts():
    assert Counter(row["kind"] for row in ROWS) == {"harmful": 100, "harmless": 100}
    assert Counter(row["kind"] for row in ROWS if row["twin"]) == {"harmful": 60, "harmless": 60}
    assert all(row.keys() == {"id", "prompt", "kind", "twin"} for row in ROWS)


def test_ids_are_unique_and_name_the_kind():
    assert len(BY_ID) == len(ROWS)
    assert all(row["id"].startswith(row["kind"] + "-") for row in ROWS)


def test_twins_name_each_other_and_are_of_different_kinds():
    for row in ROWS:
        if row["twin"]:
            twin = BY_ID[row["twin"]]
            assert twin["twin"] == row["id"]
            assert {row["kind"], twin["kind"]} == {"harmful", "harmless"}


def test_twins_share_words():
    assert all(len(words(row["prompt"]) & words(BY_ID[row["twin"]]["prompt"])) >= 4 for row in ROWS if row["twin"])


@pytest.mark.parametrize("i", range(len(ROWS)), ids=[row["id"] for row in ROWS])
def test_a_prompt_is_one_clean_text(i):
    prompt = ROWS[i]["prompt"]
    assert prompt == prompt.strip() and prompt.isprintable() and 10 < len(prompt) < 200


def test_no_prompt_occurs_twice():
    for one, other in combinations(ROWS, 2):
        mine, theirs = words(one["prompt"]), words(other["prompt"])
        assert mine != theirs, one["id"]
        if one["twin"] != other["id"]:
            assert len(mine & theirs) < 0.6 * len(mine | theirs), (one["id"], other["id"])


def test_lengths_vary():
    lengths = sorted(len(row["prompt"].split()) for row in ROWS)
    assert lengths[20] <= 12 and lengths[-20] >= 22


def test_a_twin_is_told_from_an_ordinary_prompt():
    harmful = prompts("harmful", twins=True)
    assert have_twins(harmful, prompts("harmless", twins=True)).mean() > 0.65
    assert have_twins(harmful, prompts("harmless", twins=False)).mean() == 0
