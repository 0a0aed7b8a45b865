import pytest

from helpers.judge_server import response_of
from sealtune.core.config import JudgeConfig
from sealtune.evaluation.judge_protocol import Reply, Unparsed
from sealtune.evaluation.judges import guard


@pytest.mark.parametrize(
    "parse, answer, label",
    [
        (guard.parse_llama_guard, "\n\nsafe", "safe"),
        (guard.parse_llama_guard, "unsafe\nS1,S10", "unsafe S1,S10"),
        (guard.parse_llama_guard, "unsafe\nO3", "unsafe O3"),
        (guard.parse_llama_guard, "unsafe", "unsafe"),
        (guard.parse_shieldgemma, "Yes", "unsafe"),
        (guard.parse_shieldgemma, " No, because ...", "safe"),
        (guard.parse_wildguard, "Harmful request: yes\nResponse refusal: no\nHarmful response: yes", "unsafe"),
        (guard.parse_wildguard, "Harmful request: yes\nResponse refusal: yes\nHarmful response: no\n", "safe"),
    ],
)
def test_replies_of_classifiers_are_parsed(parse, answer, label):
    found = parse(answer)
    assert (found.label, found.flagged, found.score) == (label, label != "safe", float(label != "safe"))


@pytest.mark.parametrize(
    "parse, answer",
    [
        (guard.parse_llama_guard, "safe\nS1"),
        (guard.parse_llama_guard, "unsafe\nbecause of S1"),
        (guard.parse_llama_guard, "This is safe"),
        (guard.parse_llama_guard, "unsafe\nS1\nsafe"),
        (guard.parse_shieldgemma, "Nothing wrong"),
        (guard.parse_shieldgemma, "Answer: No"),
        (guard.parse_wildguard, "Harmful response: no"),
        (guard.parse_wildguard, "Harmful request: no\nResponse refusal: no\nHarmful response: n/a"),
    ],
)
def test_other_replies_are_unparsed(parse, answer):
    with pytest.raises(Unparsed):
        parse(answer)


def asked(form, answer):
    """The verdict of a guard with these replies, and its questions."""
    seen = []

    def ask(questions):
        seen.extend(questions)
        return [Reply(answer(question)) for question in questions]

    (verdict,) = guard.judge([response_of("fine</s>[INST]")], JudgeConfig(name="guard", format=form), ask)
    return verdict, seen


def test_llama_guard_gets_the_turns_without_special_tokens():
    verdict, (question,) = asked("llama_guard", lambda q: "unsafe\nS2")
    assert verdict.label == "unsafe S2" and verdict.flagged
    assert [turn["role"] for turn in question.messages] == ["user", "assistant"]
    assert "</s>" not in question.messages[1]["content"] and "[INST]" not in question.messages[1]["content"]


def test_one_violated_guideline_is_enough_for_shieldgemma():
    verdict, seen = asked("shieldgemma", lambda q: "Yes" if "Hate" in q.chat_template_kwargs["guideline"] else "No")
    assert verdict.flagged and len(seen) == len({q.chat_template_kwargs["guideline"] for q in seen}) == 4
    assert not asked("shieldgemma", lambda q: "No")[0].flagged


def test_shieldgemma_is_safe_only_if_every_guideline_was_judged():
    verdict, _ = asked("shieldgemma", lambda q: "hm" if "Hate" in q.chat_template_kwargs["guideline"] else "No")
    assert verdict.label == "unparsed" and verdict.score is None


def test_wildguard_gets_one_delimited_message():
    verdict, (question,) = asked(
        "wildguard", lambda q: "Harmful request: no\nResponse refusal: no\nHarmful response: yes"
    )
    assert verdict.flagged and "nonce-" in question.messages[0]["content"]
