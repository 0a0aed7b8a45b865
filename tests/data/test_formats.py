from pathlib import Path

import pytest

from sealtune.core.config import DatasetConfig
from sealtune.core.errors import UserError
from sealtune.core.types import Message
from sealtune.data import formats
from sealtune.data.formats import UnusableRow
from sealtune.data.load import load
from sealtune.data.sources import read_rows

FIXTURES = Path(__file__).parents[1] / "fixtures"
FORMATS = sorted(path.stem for path in Path(formats.__file__).parent.glob("*.py") if path.stem != "__init__")

PINNED = {
    "alpaca": ["ea39c95447670781", "66c9dc02e0e58b08"],
    "hh_rlhf": ["fc313e5423439663", "9d9dac24991c196e"],
    "messages": ["913b575427a95aa7", "daa7f178e6653624"],
    "openorca": ["niv.1", "niv.2"],
    "prompt_completion": ["ea39c95447670781", "73ce06d995a8e27b"],
    "prompt_response": ["colours", "9d9dac24991c196e"],
    "sharegpt": ["913b575427a95aa7", "9d9dac24991c196e"],
    "transcript": ["ea39c95447670781", "73ce06d995a8e27b"],
    "ultrachat": ["u1", "u2"],
}

SYSTEM = Message("system", "You answer briefly.")
COLOURS = (Message("user", "Name three primary colours."), Message("assistant", "Red, yellow and blue."))
SUM = (Message("user", "Add 19 and 23."), Message("assistant", "19 + 23 = 42."))

CONVERSATIONS = {
    "alpaca": [COLOURS, (Message("user", "Add the numbers.\n\n19, 23"), SUM[1])],
    "hh_rlhf": [COLOURS + SUM, SUM],
    "messages": [(SYSTEM, *COLOURS), (*SUM, Message("user", "Thank you."))],
    "openorca": [(SYSTEM, *COLOURS), SUM],
    "prompt_completion": [COLOURS, (SYSTEM, *SUM)],
    "prompt_response": [COLOURS, SUM],
    "sharegpt": [(SYSTEM, *COLOURS), SUM],
    "transcript": [COLOURS, (SYSTEM, *SUM)],
    "ultrachat": [COLOURS, COLOURS + SUM],
}


def rows_of(name):
    return [row for _, row in read_rows(DatasetConfig(path=str(FIXTURES / f"{name}.jsonl")))]


def unusable(name, row):
    with pytest.raises(UnusableRow) as caught:
        formats.get(name).read(row)
    return caught.value.reason


@pytest.mark.parametrize("name", FORMATS)
def test_contract_ids_are_unique_stable_and_pinned(name):
    config = DatasetConfig(path=str(FIXTURES / f"{name}.jsonl"))
    samples = load([config]).samples
    ids = [sample.id for sample in samples]
    assert ids == PINNED[name]
    assert len(set(ids)) == len(ids)
    assert [sample.row for sample in samples] == rows_of(name)


@pytest.mark.parametrize("name", FORMATS)
def test_contract_format_is_found_from_its_columns(name):
    rows = rows_of(name)
    assert formats.detect({column for row in rows for column in row}) == name
    assert all(row.keys() >= formats.get(name).COLUMNS for row in rows)


@pytest.mark.parametrize("name", FORMATS)
def test_contract_rows_become_these_conversations(name):
    assert [formats.get(name).read(row) for row in rows_of(name)] == CONVERSATIONS[name]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("value", [None, 3, [], ["x"], {}, [{"role": "assistant"}], "\ud800"])
def test_contract_a_value_of_another_type_is_unusable(name, value):
    reader = formats.get(name)
    assert unusable(name, dict.fromkeys(reader.COLUMNS, value))


def test_detect_prefers_the_most_specific_and_refuses_a_tie():
    assert formats.detect({"prompt", "response", "instruction"}) == "prompt_response"
    assert formats.detect({"system_prompt", "question", "prompt", "response"}) == "openorca"
    assert formats.detect({"chosen", "messages", "x"}) == "messages"
    with pytest.raises(UserError, match="fit hh_rlhf and sharegpt; choose one with `format`"):
        formats.detect({"chosen", "conversations", "x"})
    words = r"no known format \(ask, his_reply\).*`columns: {prompt: PROMPT_COLUMN, response: his_reply}`.*alpaca: ins"
    with pytest.raises(UserError, match=words):
        formats.detect({"his_reply", "ask"})
    with pytest.raises(UserError, match="no row format 'alpacca'; known: alpaca"):
        formats.get("alpacca")


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("messages", {"messages": [{"role": "user", "content": "x"}]}, "no_assistant_turn"),
        ("messages", {"messages": [{"role": "assistant", "content": " \n"}]}, "empty_response"),
        ("messages", {"messages": [{"role": "critic", "content": "x"}]}, "unknown_role"),
        ("messages", {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "unclear_tool_call"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "not_text"),
        ("messages", {"messages": "x"}, "not_a_message"),
        ("messages", {"messages": ["x"]}, "not_a_message"),
        ("prompt_response", {"prompt": "x", "response": ""}, "empty_response"),
        ("prompt_response", {"prompt": None, "response": "x"}, "not_text"),
        ("prompt_response", {"prompt": "\ud83d", "response": "x"}, "not_text"),
        ("alpaca", {"instruction": "x", "input": 3, "output": "y"}, "not_text"),
        ("sharegpt", {"conversations": [{"from": "narrator", "value": "x"}]}, "unknown_role"),
        ("hh_rlhf", {"chosen": "Just an answer."}, "not_a_transcript"),
        ("hh_rlhf", {"chosen": "Note\n\nHuman: a\n\nAssistant: b"}, "not_a_transcript"),
        ("hh_rlhf", {"chosen": "\n\nHuman: a\n\nAssistant:"}, "empty_response"),
    ],
)
def test_unusable_rows_have_a_reason(name, row, reason):
    assert unusable(name, row) == reason


def test_tool_turns_and_blank_system_prompts():
    turns = [("system", " "), ("tool", "42"), ("assistant", "It is 42.")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    assert formats.get("messages").read(row) == (Message("tool", "42"), Message("assistant", "It is 42."))
