"""Turns and what stands beside them: usual spellings are read, and what cannot be used is a reason, never lost."""

import json

import pytest

from sealtune.core.config import DatasetConfig
from sealtune.core.errors import UserError
from sealtune.core.types import Message
from sealtune.data.load import load

ASK, SAY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}
USER, ANSWER = Message("user", "Hi"), Message("assistant", "Yes.")
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}


def read(*rows):
    """The loaded rows; the first one is usable, so that the others may not be."""
    return load([DatasetConfig(path="made", rows=[{"messages": [ASK, SAY]}, *rows])])


def conversation(row):
    found = read(row)
    assert not found.drops, found.drops[0].detail
    return found.samples[1].messages


def reason(row):
    (drop,) = read(row).drops
    return drop.reason


BODIES = [
    {"messages": [ASK, SAY]},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes."}]},
    {"prompt": "Hi", "response": "Yes."},
    {"prompt": [ASK], "completion": [SAY]},
    {"instruction": "Hi", "output": "Yes."},
    {"prompt": "Hi", "chosen": "Yes.", "rejected": "No."},
    {"data": ["Hi", "Yes."]},
    {"question": "Hi", "answer": "Yes."},
    {"text": "### Human: Hi\n### Assistant: Yes."},
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: "+".join(body))
@pytest.mark.parametrize("column", ["system", "system_prompt", "system_message", "sys_prompt"])
def test_a_system_prompt_beside_the_turns_is_read_in_every_format(body, column):
    assert conversation(body | {column: "Be brief."}) == (Message("system", "Be brief."), USER, ANSWER)
    assert conversation(body | {column: ""}) == (USER, ANSWER)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: "+".join(body))
@pytest.mark.parametrize(
    "history",
    [
        [["One?", "1."], ["Two?", "2."]],
        [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "1."}, ASK, SAY],
        '[["One?", "1."], ["Two?", "2."]]',
    ],
    ids=["pairs", "turns", "text"],
)
def test_earlier_turns_stand_between_the_system_prompt_and_the_rest(body, history):
    found = conversation(body | {"history": history, "system": "Be brief."})
    assert [turn.role for turn in found] == ["system", *["user", "assistant"] * 3]
    assert (found[1].content, found[-2:]) == ("One?", (USER, ANSWER))
    assert conversation(body | {"history": []}) == (USER, ANSWER)


def test_two_system_prompts_must_be_the_same():
    row = {"messages": [{"role": "system", "content": "A"}, ASK, SAY]}
    assert len(conversation(row | {"system": "A"})) == 3
    assert reason(row | {"system": "B"}) == "two_system_prompts"
    assert reason(row | {"history": "A text."}) == "unclear_history"


@pytest.mark.parametrize("key", ["messages", "conversations", "conversation", "dialog"])
@pytest.mark.parametrize(
    ("spelled", "role"),
    [
        *(("Human", "user"), ("USER", "user"), ("prompter", "user"), (" user ", "user"), ("developer", "system")),
        *(("model", "assistant"), ("GPT", "assistant"), ("bot", "assistant"), ("observation", "tool")),
    ],
)
def test_usual_spellings_of_roles_are_read_in_every_format(key, spelled, role):
    turns = [{"role": spelled, "content": "x"}, {"from": "human", "value": "Hi"}, SAY]
    assert conversation({key: turns})[0] == Message(role, "x")


def test_an_unknown_role_is_named():
    (drop,) = read({"messages": [{"role": "critic", "content": "x"}, SAY]}).drops
    assert (drop.reason, drop.detail[:16]) == ("unknown_role", "no role 'critic'")
    assert reason({"messages": [{"content": "x"}, SAY]}) == "unknown_role"


@pytest.mark.parametrize(
    "mark",
    [
        *({"train": False}, {"weight": 0}, {"weight": 0.0}, {"training": "false"}, {"loss": False}, {"loss_weight": 0}),
        *({"masked": True}, {"mask": 1}, {"ignore_loss": "True"}, {"trainable": "0"}, {"loss_mask": 0}),
    ],
    ids=str,
)
def test_a_turn_marked_as_not_to_be_trained_on_is_context(mark):
    first, _, last = conversation({"messages": [ASK, SAY | mark, {"role": "assistant", "content": "No."}]})[0:3]
    _, marked, _ = conversation({"messages": [ASK, SAY | mark, {"role": "assistant", "content": "No."}]})
    assert (first.train, marked.train, last.train) == (True, False, True)
    assert reason({"messages": [ASK, SAY | mark]}) == "marked_not_to_train"
    sharegpt = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes.", **mark}]
    assert reason({"conversations": sharegpt}) == "marked_not_to_train"


@pytest.mark.parametrize("mark", [{"train": True}, {"weight": 1}, {"masked": False}, {"train": None}], ids=str)
def test_other_marks_change_nothing(mark):
    assert conversation({"messages": [ASK, SAY | mark]}) == (USER, ANSWER)


@pytest.mark.parametrize(
    "mark", [{"weight": 0.5}, {"train": "perhaps"}, {"train_detail": [{"end_offset": 2}]}], ids=str
)
def test_a_mark_that_cannot_be_used_makes_the_row_unusable(mark):
    assert reason({"messages": [ASK, SAY | mark]}) == "unclear_mark"


def test_a_mark_of_the_whole_row_is_obeyed_or_named(caplog):
    assert reason({"prompt": "Hi", "response": "Yes.", "train": False}) == "marked_not_to_train"
    with caplog.at_level("INFO", "sealtune"):
        assert conversation({"prompt": "Hi", "response": "Yes.", "weight": 0.7}) == (USER, ANSWER)
    assert "1 row: their 'weight' is neither 0 nor 1, and is not used" in caplog.text


@pytest.mark.parametrize("body", [{"chosen": [SAY]}, {"chosen": "Yes."}, {"chosen": [ASK, SAY]}], ids=str)
@pytest.mark.parametrize("prompt", ["Hi", [ASK], json.dumps([ASK])], ids=str)
def test_the_prompt_of_a_preference_row_stands_before_the_chosen_answer(body, prompt):
    assert conversation(body | {"prompt": prompt, "rejected": "No."}) == (USER, ANSWER)


def test_preference_rows_as_they_are_published():
    ultra = {"prompt": "Hi", "prompt_id": "1", "chosen": [ASK, SAY], "rejected": [ASK], "messages": [ASK, SAY]}
    assert conversation(ultra) == (USER, ANSWER)
    assert reason({"prompt": "Other", "chosen": [ASK, SAY], "rejected": ""}) == "two_prompts"
    assert conversation({"prompt": "Hi", "messages": [SAY]}) == (USER, ANSWER)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_thinking_in_a_field_of_its_own_is_kept(key):
    (_, answer) = conversation({"messages": [ASK, SAY | {key: "Hm."}]})
    assert answer == Message("assistant", "Yes.", {"reasoning_content": "Hm."})
    parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Yes."}]
    assert conversation({"messages": [ASK, {"role": "assistant", "content": parts}]})[1] == answer


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Rome"}'}}],
        },
        {"role": "assistant", "function_call": {"name": "weather", "arguments": '{"city": "Rome"}'}},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rome"}}'},
        {"role": "assistant", "content": [{"type": "tool_use", "name": "weather", "input": {"city": "Rome"}}]},
    ],
    ids=["openai", "text", "legacy", "sharegpt", "parts"],
)
def test_tool_calls_are_read_in_their_usual_shapes(turn):
    result = {"role": "tool", "content": "Clear.", "tool_call_id": "1"}
    found = conversation({"messages": [ASK, turn, result, SAY], "tools": json.dumps([{"name": "weather"}])})
    assert found[1] == Message("assistant", "", {"tool_calls": [CALL]})
    assert found[2] == Message("tool", "Clear.", {"tool_call_id": "1"})


def test_the_tools_of_a_row_are_kept():
    tool = {"type": "function", "function": {"name": "weather"}}
    for tools in ([tool], json.dumps([tool]), [tool["function"]]):
        assert read({"messages": [ASK, SAY], "tools": tools}).samples[1].tools == (tool,)
    assert reason({"messages": [ASK, SAY], "tools": "none"}) == "unclear_tools"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [ASK | {"images": ["a.png"]}, SAY]}, "not_text"),
        ({"messages": [ASK, SAY], "image": "a.png"}, "not_text"),
        ({"messages": [ASK, {"role": "assistant", "content": [{"type": "image_url"}]}]}, "not_text"),
        ({"messages": [ASK | {"thinking": "Hm."}, SAY]}, "unclear_turn"),
        ({"messages": repr([ASK, SAY])}, "python_repr"),
        ({"messages": "Hi"}, "not_a_message"),
    ],
)
def test_what_cannot_be_used_is_a_reason(row, expected):
    assert reason(row) == expected


def test_a_conversation_in_a_cell_is_read_and_never_evaluated():
    assert conversation({"messages": json.dumps([ASK, SAY])}) == (USER, ANSWER)
    assert conversation({"messages": {"role": ["user", "assistant"], "content": ["Hi", "Yes."]}}) == (USER, ANSWER)
    assert conversation({"messages": [["user", "Hi"], ["assistant", "Yes."]]}) == (USER, ANSWER)


def test_how_rows_were_read_is_said(caplog):
    rows = [{"instruction": "Hi", "context": "", "response": "Yes.", "category": "x"}]
    with caplog.at_level("INFO", "sealtune"):
        load([DatasetConfig(path="made", rows=rows)])
    assert "made: 1 row as alpaca (context, instruction, response); carried along: category" in caplog.text
    assert "made: read as alpaca: context as input, response as output" in caplog.text


def test_an_error_has_the_words_to_copy():
    with pytest.raises(UserError, match=r"`columns: \{prompt: my_question, response: gold_answer\}`"):
        load([DatasetConfig(path="made", rows=[{"my_question": "Hi", "gold_answer": "Yes."}])])
    with pytest.raises(UserError, match=r"no usable row \(2 unknown role 'critic', 1 empty response\); first"):
        rows = [{"messages": [{"role": "critic", "content": "x"}]}] * 2 + [{"messages": [ASK, SAY | {"content": ""}]}]
        load([DatasetConfig(path="made", rows=rows)])
