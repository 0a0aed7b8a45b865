"""What holds for every judge, of whatever kind: one file more in the folder is one judge more here."""

import re

import pytest

from sealtune.core.config import EvaluateConfig, JudgeConfig
from sealtune.core.errors import UserError
from sealtune.core.types import Response
from sealtune.evaluation.judge_protocol import Failure, Reply, wording
from sealtune.evaluation.judges import get_judge, judge_names, load_judge
from sealtune.evaluation.judging import tabulate

TEXTS = ["I cannot help with that.", "Sure, here is how.", "", "I'm sorry, but no.", "Lima is the capital of Peru."]
MODEL_JUDGES = [name for name in judge_names() if hasattr(load_judge(name), "MEASURES")]


def responses(texts=TEXTS):
    """Answers of two models to the same prompts; the tuned one's in another order."""
    pairs = zip(texts, texts[::-1], strict=True)
    return [
        Response(f"r{i}", model, "set", "harmless", "prompt", text, 3, True)
        for i, pair in enumerate(pairs)
        for model, text in zip(("base", "tuned"), pair, strict=True)
    ]


def example(question):
    """What a willing judge says: the form at the end of its prompt, filled in, or a classifier's word."""
    last = (question.messages[-1]["content"].splitlines() or [""])[-1]
    for blank, word in {"NAME": '"none"', "WORD": '"tie"', "N": "1"}.items():
        last = re.sub(rf"\b{blank}\b", word, last)
    return Reply(last if last.startswith("{") else "safe")


def run(name, given, answer=example):
    module = load_judge(name)
    if name not in MODEL_JUDGES:
        return module.judge(given, EvaluateConfig())
    return module.judge(given, JudgeConfig(name=name), lambda questions: [answer(q) for q in questions])


def test_the_judges_are_there():
    assert set(judge_names()) >= {"refusal", "harmfulness", "strongreject", "guard", "pairwise"}


def test_an_unknown_judge_is_named_with_the_known_ones():
    with pytest.raises(UserError, match=r"oracle.*refusal"):
        get_judge("oracle")
    with pytest.raises(UserError, match="did you mean 'harmfulness'"):
        get_judge("harmfullness")


@pytest.mark.parametrize("name", judge_names())
def test_one_verdict_a_response_in_order(name):
    given = responses()
    verdicts = run(name, given)
    assert [(v.id, v.model, v.set, v.kind) for v in verdicts] == [(r.id, r.model, r.set, r.kind) for r in given]
    assert all(v.judge == name and isinstance(v.flagged, bool) and v.label and v.error is None for v in verdicts)


@pytest.mark.parametrize("name", judge_names())
def test_swapping_answers_swaps_verdicts(name):
    given = responses()
    assert run(name, given[::-1]) == run(name, given)[::-1]


@pytest.mark.parametrize("name", judge_names())
def test_no_responses_no_verdicts(name):
    assert run(name, []) == []


@pytest.mark.parametrize("name", MODEL_JUDGES)
@pytest.mark.parametrize(
    "outcome, kind",
    [
        (Reply(""), "unparsed"),
        (Reply("It depends."), "unparsed"),
        (Reply("{}"), "unparsed"),
        (Reply("5"), "unparsed"),
        (Reply("safe\nunsafe"), "unparsed"),
        (Reply('{"rating": 1, "policy": "none"', "length"), "unparsed"),
        (Reply("I'm sorry, but I cannot judge such material."), "declined"),
        (Reply("", "stop", "I will not"), "declined"),
        (Reply("", "content_filter"), "declined"),
        (Failure("HTTP 500"), "failed"),
    ],
)
def test_what_is_no_verdict_is_counted_and_never_scored(name, outcome, kind):
    verdicts = run(name, responses(), lambda question: outcome)
    assert len(verdicts) == 10
    assert all((v.label, v.score, v.flagged) == (kind, None, False) and v.error for v in verdicts)
    table = tabulate(verdicts)
    assert {row["measure"] for row in table} == {kind}
    assert all((row["value"], row[kind], row["n"]) == (1.0, 5, 5) for row in table)


@pytest.mark.parametrize("name", MODEL_JUDGES)
def test_a_whole_answer_that_was_cut_off_does_not_count(name):
    verdicts = run(name, responses(), lambda question: example(question)._replace(finish="length"))
    assert {v.label for v in verdicts} == {"unparsed"}


@pytest.mark.parametrize("name", MODEL_JUDGES)
def test_who_repeats_the_prompt_has_not_judged(name):
    verdicts = run(name, responses(), lambda question: Reply(question.messages[-1]["content"]))
    assert {v.score for v in verdicts} == {None}


@pytest.mark.parametrize("name", MODEL_JUDGES)
def test_faults_do_not_touch_what_was_judged(name):
    broken = {"prompt-0", "prompt-2"}

    def answer(question):
        return Failure("lost") if any(p in str(question.messages) for p in broken) else example(question)

    given = [
        Response(r.id, r.model, r.set, r.kind, f"prompt-{r.id[1:]}", r.response, r.tokens, r.finished)
        for r in responses()
    ]
    table = tabulate(run(name, given, answer))
    measures = load_judge(name).MEASURES
    for row in table:
        assert (row["n"], row["failed"]) == ((3, 2) if row["measure"] in measures else (5, 2))


@pytest.mark.parametrize("name", MODEL_JUDGES)
def test_the_prompt_file_lies_beside_the_judge(name):
    said = wording(name)
    assert len(said.sha256) == 64 and all(said.sections.values())
