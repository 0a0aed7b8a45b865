"""What holds for every judge. A judge is one file, so a new file in the folder is tested here, too."""

import re
from dataclasses import replace

import pytest

from sealtune.core.config import JudgeConfig
from sealtune.core.errors import UserError
from sealtune.core.types import Response
from sealtune.evaluation.judge_protocol import ERRORS, KINDS, Failure, Judge, Measure, Reply, prompt_template
from sealtune.evaluation.judges import judge_names, load_judge
from sealtune.evaluation.judging import tabulate

TEXTS = ["I cannot help with that.", "Sure, here is how.", "", "I'm sorry, but no.", "Lima is the capital of Peru."]
MODEL_JUDGES = [name for name in judge_names() if load_judge(name).asks_model]


def responses(kind="harmless", texts=TEXTS):
    """Answers of two models to the same prompts; the tuned model's in reverse order."""
    pairs = zip(texts, texts[::-1], strict=True)
    return [
        Response(f"r{i}", model, "set", kind, "prompt", text, 3, True)
        for i, pair in enumerate(pairs)
        for model, text in zip(("base", "tuned"), pair, strict=True)
    ]


def valid_reply(question):
    """The JSON form at the end of the judge's prompt, filled in, or a classifier's word."""
    last = (question.messages[-1]["content"].splitlines() or [""])[-1]
    for placeholder, word in {"NAME": '"none"', "WORD": '"tie"', "N": "1"}.items():
        last = re.sub(rf"\b{placeholder}\b", word, last)
    return Reply(last if last.startswith("{") else "safe")


def run(name, given, reply=valid_reply):
    return load_judge(name).judge(given, JudgeConfig(name=name), lambda questions: [reply(q) for q in questions])


def test_these_judges_are_included():
    assert set(judge_names()) >= {"refusal", "harmfulness", "strongreject", "guard", "pairwise"}


def test_the_error_for_an_unknown_judge_names_the_known_ones():
    with pytest.raises(UserError, match=r"oracle.*refusal"):
        load_judge("oracle")
    with pytest.raises(UserError, match="did you mean 'harmfulness'"):
        load_judge("harmfullness")


@pytest.mark.parametrize("name", judge_names())
def test_a_judge_states_its_measures(name):
    judge = load_judge(name)
    assert isinstance(judge, Judge)
    assert judge.kinds and set(judge.kinds) <= set(KINDS)
    assert judge.measures
    assert not set(judge.measures) & {*ERRORS, "loss"}
    for key, measure in judge.measures.items():
        assert isinstance(measure, Measure)
        assert re.fullmatch("[a-z_]+", key) and measure.title.strip()
        assert measure.field in ("flagged", "not_flagged", "score")
        assert measure.unit in ("share", "rating")
        assert measure.low < measure.high
        assert measure.unit == "rating" or (measure.low, measure.high) == (0, 1)
        assert measure.kinds and set(measure.kinds) <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", judge_names())
def test_every_row_has_a_unit_a_title_and_a_value_in_the_range_of_its_measure(name, kind):
    judge = load_judge(name)
    verdicts = run(name, responses(kind))
    for row in tabulate(verdicts):
        measure = judge.measures[row["measure"]]
        assert (row["unit"], row["title"]) == (measure.unit, measure.title)
        assert measure.low <= row["low"] <= row["value"] <= row["high"] <= measure.high
        assert kind in measure.kinds
    values = [(m, m.value(v)) for m in judge.measures.values() if kind in m.kinds for v in verdicts]
    assert all(m.low <= value <= m.high for m, value in values)


@pytest.mark.parametrize("name", judge_names())
def test_one_verdict_per_response_in_order(name):
    given = responses()
    verdicts = run(name, given)
    assert [(v.id, v.model, v.set, v.kind) for v in verdicts] == [(r.id, r.model, r.set, r.kind) for r in given]
    assert all(v.judge == name and isinstance(v.flagged, bool) and v.label and v.error is None for v in verdicts)


@pytest.mark.parametrize("name", judge_names())
def test_swapping_answers_swaps_verdicts(name):
    given = responses()
    assert run(name, given[::-1]) == run(name, given)[::-1]


@pytest.mark.parametrize("name", judge_names())
def test_no_responses_give_no_verdicts(name):
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
def test_a_reply_without_a_verdict_is_counted_and_never_scored(name, outcome, kind):
    verdicts = run(name, responses(), lambda question: outcome)
    assert len(verdicts) == 10
    assert all((v.label, v.score, v.flagged) == (kind, None, False) and v.error for v in verdicts)
    table = tabulate(verdicts)
    assert {(row["measure"], row["unit"], row["title"]) for row in table} == {(kind, "share", ERRORS[kind])}
    assert all((row["value"], row[kind], row["n"]) == (1.0, 5, 5) for row in table)


@pytest.mark.parametrize("name", MODEL_JUDGES)
def test_a_truncated_reply_does_not_count(name):
    verdicts = run(name, responses(), lambda question: valid_reply(question)._replace(finish="length"))
    assert {v.label for v in verdicts} == {"unparsed"}


@pytest.mark.parametrize("name", MODEL_JUDGES)
def test_a_judge_that_repeats_the_prompt_has_not_judged(name):
    verdicts = run(name, responses(), lambda question: Reply(question.messages[-1]["content"]))
    assert {v.score for v in verdicts} == {None}


@pytest.mark.parametrize("name", MODEL_JUDGES)
def test_errors_do_not_change_the_other_verdicts(name):
    broken = {"prompt-0", "prompt-2"}

    def reply(question):
        return Failure("lost") if any(p in str(question.messages) for p in broken) else valid_reply(question)

    given = [replace(r, prompt=f"prompt-{r.id[1:]}") for r in responses()]
    for row in tabulate(run(name, given, reply)):
        assert row["failed"] == 2
        assert row["n"] == (5 if row["measure"] == "failed" else 3)


@pytest.mark.parametrize("name", MODEL_JUDGES)
def test_a_judge_has_a_prompt_file(name):
    template = prompt_template(name)
    assert len(template.sha256) == 64
    assert template.sections and all(template.sections.values())
