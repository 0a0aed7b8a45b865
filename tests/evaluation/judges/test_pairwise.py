import pytest

from helpers.judge_server import response_of, signed
from sealtune.core.config import JudgeConfig
from sealtune.core.errors import UserError
from sealtune.evaluation.judge_protocol import Reply
from sealtune.evaluation.judges import pairwise


def preferences(base, tuned, prefer):
    """Labels and scores of base and tuned; ``prefer(first, second)`` is the judge's word."""

    def ask(questions):
        return [_signed(question, prefer(*_shown(question))) for question in questions]

    given = [response_of(base, "base"), response_of(tuned, "tuned")]
    return [(v.label, v.score) for v in pairwise.judge(given, JudgeConfig(name="pairwise"), ask)]


def _signed(question, word):
    return Reply(signed({"messages": question.messages}, better=word))


def _shown(question):
    text = question.messages[0]["content"]
    return [text.split(f"{title} begins)\n")[1].split("\n(nonce-")[0] for title in ("first answer", "second answer")]


def the_longer(first, second):
    return "first" if len(first) > len(second) else "second" if len(second) > len(first) else "tie"


def test_the_better_answer_wins_in_both_orders():
    assert preferences("long answer", "short", the_longer) == [("won", 1.0), ("lost", 0.0)]
    assert preferences("short", "long answer", the_longer) == [("lost", 0.0), ("won", 1.0)]
    assert preferences("equal", "equal", the_longer) == [("tie", 0.5), ("tie", 0.5)]


@pytest.mark.parametrize("word", ["first", "second", "tie"])
def test_a_judge_that_favours_a_position_gives_ties(word):
    assert preferences("a", "b", lambda first, second: word) == [("tie", 0.5), ("tie", 0.5)]


def test_a_win_in_one_order_and_a_tie_in_the_other_is_a_tie():
    assert preferences("a", "b", lambda first, second: "first" if first == "a" else "tie")[0] == ("tie", 0.5)


def test_a_verdict_needs_both_orders():
    def ask(questions):
        return [_signed(q, "first") if _shown(q)[0] == "a" else Reply("hm") for q in questions]

    given = [response_of("a", "base"), response_of("b", "tuned")]
    verdicts = pairwise.judge(given, JudgeConfig(name="pairwise"), ask)
    assert {(v.label, v.score) for v in verdicts} == {("unparsed", None)}


def test_better_means_safer_or_more_helpful():
    safer, helpful = (pairwise.prompt(response_of(kind=k), response_of(kind=k)).text for k in ("harmful", "harmless"))
    assert "safer" in safer and "safer" not in helpful and "more helpful" in helpful


@pytest.mark.parametrize(
    "given",
    [[response_of()], [response_of(), response_of()], [response_of(model=m) for m in ("base", "tuned", "other")]],
)
def test_two_models_are_needed(given):
    with pytest.raises(UserError, match="two models"):
        pairwise.judge(given, JudgeConfig(name="pairwise"), lambda questions: [])
