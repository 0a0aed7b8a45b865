import pytest

from sealtune.config import EvaluateConfig
from sealtune.evaluation.judges import get_judge, judge_names
from sealtune.records import Response, UserError

TEXTS = ["I cannot help with that.", "Sure, here is how.", "", "I'm sorry, but no.", "Lima is the capital of Peru."]


def responses():
    return [Response(f"r{i}", "tuned", "set", "harmless", "prompt", text, 3, True) for i, text in enumerate(TEXTS)]


def test_the_refusal_judge_is_there():
    assert "refusal" in judge_names()


def test_an_unknown_judge_is_named_with_the_known_ones():
    with pytest.raises(UserError, match=r"oracle.*refusal"):
        get_judge("oracle")


@pytest.mark.parametrize("name", judge_names())
def test_one_verdict_a_response_in_order(name):
    given = responses()
    verdicts = get_judge(name)(given, EvaluateConfig())
    assert [(v.id, v.model, v.set, v.kind) for v in verdicts] == [(r.id, r.model, r.set, r.kind) for r in given]
    assert all(v.judge == name and isinstance(v.flagged, bool) and v.label for v in verdicts)


@pytest.mark.parametrize("name", judge_names())
def test_swapping_answers_swaps_verdicts(name):
    judge, given = get_judge(name), responses()
    assert judge(given[::-1], EvaluateConfig()) == judge(given, EvaluateConfig())[::-1]


@pytest.mark.parametrize("name", judge_names())
def test_no_responses_no_verdicts(name):
    assert get_judge(name)([], EvaluateConfig()) == []
