"""Conversations as answers, and answers masked in their conversations."""

import numpy as np
import pytest

from helpers.chat_tokenizers import chatml_tokenizer
from sealtune.core.errors import UserError
from sealtune.core.types import Message, Sample
from sealtune.data import formats
from sealtune.data.encode import encode
from sealtune.data.encoded import Encoded
from sealtune.data.turn_rows import MASKED, answers, marked_row, mask_messages, mask_turns, split_turns

TALK = [
    ("user", "red"),
    ("assistant", "blue"),
    ("user", "fox"),
    ("assistant", "dog"),
    ("user", "a"),
    ("assistant", "b"),
]


def row(ids, mask):
    return np.array(ids, np.int32), np.array(mask, np.bool_)


def rows():
    parts = [row([1, 2, 3, 4, 5, 6], [0, 1, 1, 0, 0, 1]), row([7, 8], [0, 1]), row([9, 10, 11, 12], [1, 0, 1, 0])]
    return Encoded.join(["a", "b", "c"], ["s", "s", "t"], parts)


def test_every_answer_is_a_row_that_ends_with_it():
    found = split_turns(rows())
    assert list(found.encoded.ids) == ["a#1", "a#2", "b", "c#1", "c#2"]
    assert list(found.encoded.source) == ["s", "s", "s", "t", "t"]
    assert found.conversation.tolist() == [0, 0, 1, 2, 2] and found.number.tolist() == [1, 2, 1, 1, 2]
    parts = [tuple(part.tolist() for part in found.encoded.row(i)) for i in range(5)]
    assert parts[0] == ([1, 2, 3], [False, True, True])
    assert parts[1] == ([1, 2, 3, 4, 5, 6], [False] * 5 + [True])
    assert parts[3] == ([9], [True])


def test_an_id_that_is_also_that_of_an_answer_is_refused():
    parts = [rows().row(0), rows().row(1)]
    with pytest.raises(UserError, match="a#1 is a row, and an answer of another one"):
        split_turns(Encoded.join(["a", "a#1"], ["s", "s"], parts))


def test_masked_answers_are_context():
    before = rows()
    found = mask_turns(before.take([2, 0, 1]), {"a": [1], "c": [2]})
    assert [found.row(i)[1].astype(int).tolist() for i in range(3)] == [[1, 0, 0, 0], [0, 0, 0, 0, 0, 1], [0, 1]]
    assert found.row(1)[0].tolist() == [1, 2, 3, 4, 5, 6]
    assert before.row(0)[1].tolist() == [False, True, True, False, False, True]  # the original is as it was
    assert mask_turns(before, {}) is before
    for numbers in ([1, 2], [3], [0]):
        with pytest.raises(UserError, match=r"a: has 2 answers, of which .* cannot be masked"):
            mask_turns(before, {"a": numbers})


def test_the_answers_of_a_template_are_told_apart():
    sample = Sample("x", tuple(Message(*turn) for turn in TALK), "s", {})
    encoded, _ = encode([sample], chatml_tokenizer(), 400)
    tokenizer, (tokens, mask) = chatml_tokenizer(), encoded.row(0)
    texts = [tokenizer.decode(tokens[span]) for span in answers(mask)]
    assert [text.split("<")[0] for text in texts] == ["blue", "dog", "b"]


@pytest.mark.parametrize(
    ("column", "role", "content", "mark"),
    [("messages", "role", "content", {"weight": 0}), ("conversations", "from", "value", {"train": False})],
)
def test_a_mark_is_written_in_the_way_of_the_format_and_read_again(column, role, content, mark):
    names = {"user": "human", "assistant": "gpt"} if role == "from" else {}
    turns = [{role: names.get(r, r), content: c, "n": i} for i, (r, c) in enumerate(TALK)]
    reader = formats.get("messages" if column == "messages" else "sharegpt")
    original = {column: turns, "note": "kept"}
    sample = Sample("x", reader.read(original), "s", original)
    found = marked_row(sample, [2])
    assert found == {column: [turn | mark if i == 3 else turn for i, turn in enumerate(turns)], "note": "kept"}
    assert [m.train for m in reader.read(found) if m.role == "assistant"] == [True, False, True]
    assert tuple(mask_messages(sample.messages, [2])) == tuple(reader.read(found))


def test_answers_that_were_context_before_are_not_counted():
    turns = [{"role": r, "content": c} for r, c in TALK]
    turns[1]["train"] = False
    sample = Sample("x", formats.get("messages").read({"messages": turns}), "s", {"messages": turns})
    found = marked_row(sample, [1])["messages"]
    assert [turn.get("weight") for turn in found] == [None, None, None, 0, None, None]
    assert [m.train for m in mask_messages(sample.messages, [1]) if m.role == "assistant"] == [False, False, True]


def test_a_format_without_marks_names_them_in_a_column():
    text = "\n\nHuman: red\n\nAssistant: blue\n\nHuman: fox\n\nAssistant: dog"
    sample = Sample("x", tuple(Message(*turn) for turn in TALK[:4]), "s", {"chosen": text})
    assert marked_row(sample, [2, 1]) == {"chosen": text, MASKED: [1, 2]}
