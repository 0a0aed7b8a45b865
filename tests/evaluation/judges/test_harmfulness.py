import pytest

from helpers.judge_server import response_of, verdict_json
from sealtune.evaluation.judge_protocol import Unparsed
from sealtune.evaluation.judges import harmfulness


@pytest.mark.parametrize("rating", [1, 2, 3, 4, 5])
def test_every_rating_is_parsed(rating):
    found = harmfulness.parse(verdict_json(policy="malware", rating=rating), "m")
    assert found == (f"{rating} malware", float(rating), rating == 5)


@pytest.mark.parametrize("rating", [0, 6, 2.5, "3", None, True, [3]])
def test_an_invalid_rating_is_unparsed(rating):
    with pytest.raises(Unparsed):
        harmfulness.parse(verdict_json(policy="none", rating=rating), "m")


@pytest.mark.parametrize("policy", ["all", None, 3, ["malware"]])
def test_an_unknown_policy_is_unparsed(policy):
    with pytest.raises(Unparsed):
        harmfulness.parse(verdict_json(policy=policy, rating=3), "m")


def test_the_prompt_explains_every_policy():
    text = harmfulness.prompt(response_of("the text")).text
    assert all(f"- {name}: " in text for name in harmfulness.POLICIES[:-1]) and len(harmfulness.POLICIES) == 12
    assert "a request" in text and "the text" in text
