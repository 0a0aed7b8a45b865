"""Bodies of chat completions as servers send them."""

import json

import pytest

from sealtune.evaluation.chat_reply import parse_completion
from sealtune.evaluation.judge_protocol import JudgeError, Reply, Unparsed, parse_outcome


def body(message, finish="stop"):
    return json.dumps({"choices": [{"message": {"role": "assistant", **message}, "finish_reason": finish}]})


def text(value):
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    "message, reply",
    [
        ({"content": "a"}, Reply("a")),
        ({"content": [text("a"), text("b")]}, Reply("ab")),
        ({"content": ["a", {"type": "output_text", "text": "b"}]}, Reply("ab")),
        ({"content": [{"type": "thinking", "thinking": [text("hm")]}, text("a")]}, Reply("a")),
        ({"content": [{"type": "refusal", "refusal": "no"}]}, Reply("", "stop", "no")),
        ({"content": None, "refusal": "no"}, Reply("", "stop", "no")),
        ({"content": "a", "reasoning_content": "hm"}, Reply("a")),
        ({"content": []}, Reply("")),
        ({}, Reply("")),
    ],
)
def test_content_is_text_or_a_list_of_parts(message, reply):
    assert parse_completion(body(message)) == reply


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_no_reply(field):
    assert parse_completion(body({"content": None, field: '{"rating": 1}'})) == Reply("", "reasoning")
    assert parse_completion(body({"content": "", field: "hm"}, "length")) == Reply("", "length")


@pytest.mark.parametrize(
    "given, finish", [("MAX_TOKENS", "length"), ("eos_token", "stop"), (None, "stop"), ("SAFETY", "content_filter")]
)
def test_vendors_words_for_the_end_are_understood(given, finish):
    assert parse_completion(body({"content": "a"}, given)).finish == finish


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "[]",
        '{"choices": []}',
        body({"content": [1]}),
        body({"content": {"a": 1}}),
        body({"content": [{"text": 1}]}),
    ],
)
def test_anything_else_is_an_error_with_the_text(answer):
    with pytest.raises(ValueError) as error:
        parse_completion(answer)
    assert str(error.value) == answer


def last_word(reply):
    if not reply.endswith("safe"):
        raise Unparsed("no verdict")
    return reply


@pytest.mark.parametrize(
    "reply, verdict",
    [
        ("safe", "safe"),
        ("<think>\nunsafe?\n</think>\n\nsafe", "safe"),
        ("It is unsafe ... no.</think>\nsafe", "safe"),
        ("<think>a</think><think>b</think> safe", "safe"),
        ("[THINK]unsafe[/THINK]safe", "safe"),
        ("<|channel|>analysis<|message|>unsafe<|end|><|start|>assistant<|channel|>final<|message|>safe", "safe"),
    ],
)
def test_reasoning_before_the_verdict_is_cut_off(reply, verdict):
    assert parse_outcome(Reply(reply), last_word) == verdict


@pytest.mark.parametrize("reply", [Reply("", "reasoning"), Reply("<think>it is safe"), Reply("[THINK] safe")])
def test_a_draft_of_a_verdict_inside_the_reasoning_does_not_count(reply):
    found = parse_outcome(reply, last_word)
    assert (
        isinstance(found, JudgeError)
        and found.kind == "unparsed"
        and "only reasoning; raise max_tokens" in found.detail
    )


def test_a_reply_that_is_cut_off_while_reasoning_says_what_to_raise():
    reply = parse_completion(body({"content": None, "reasoning_content": "Let me think"}, "length"))
    assert "truncated; raise max_tokens" in parse_outcome(reply, last_word).detail
