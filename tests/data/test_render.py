"""What the chat template cannot take is changed into a form that it can, and said; what it leaves out is never lost."""

from collections import Counter

import pytest

from helpers.chat_tokenizers import byte_tokenizer
from sealtune.core.types import Message, Sample
from sealtune.data.encode import EncodeOptions, encode, encode_batches
from sealtune.data.render import SYSTEM_AS_USER, THINKING_LEFT_OUT, TOOLS_AS_USER, USERS_MERGED, render
from sealtune.data.turns import UnusableRow

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STRICT = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
)
SYSTEM_LAST = (
    "{% set ns = namespace(system='') %}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{% set ns.system = m['content'] + '\n\n' %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + (ns.system if loop.index0 >= messages | length - 2 else '') + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
)
PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% for part in m['content'] %}{{ part['text'] }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
)
TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for t in tools %}{{ t | tojson }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endif %}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m.reasoning_content %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] }}"
    "{% for c in m.tool_calls or [] %}{{ '<tool_call>' }}{{ c.function | tojson }}{{ '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ONLY_LAST_THINKS = CHATML.replace(
    "m['content'] +", "(m['content'] if loop.last else m['content'].split('</think>')[-1].lstrip('\n')) +"
)
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
)
ASK, SAY = Message("user", "Hi there"), Message("assistant", "Yes.")
SYSTEM = Message("system", "Be brief.")
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}


def tokenizer(template):
    return byte_tokenizer(template, ["<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"])


def learned(template, *messages, tools=()):
    """The whole text, what is learned of it, and the notes."""
    rendered = render(tokenizer(template), messages, tools)
    return rendered.text, [rendered.text[span.start : span.stop] for span in rendered.responses], rendered.notes


def reason(template, *messages, tools=()):
    with pytest.raises(UnusableRow) as caught:
        render(tokenizer(template), messages, tools)
    return caught.value.reason


def test_turns_are_joined_where_they_must_alternate():
    text, answers, notes = learned(STRICT, ASK, Message("user", "And quickly."), SAY)
    assert "Hi there\n\nAnd quickly.<|im_end|>" in text
    assert (answers, notes) == (["Yes.<|im_end|>"], (USERS_MERGED,))
    assert learned(CHATML, ASK, ASK, SAY)[2] == ()


def test_a_system_prompt_without_a_place_goes_before_the_first_user_turn():
    text, _, notes = learned(STRICT, SYSTEM, ASK, SAY)
    assert "user\nBe brief.\n\nHi there<|im_end|>" in text
    assert notes == (SYSTEM_AS_USER,)


def test_a_template_may_put_the_system_prompt_into_the_last_user_turn():
    text, answers, notes = learned(SYSTEM_LAST, SYSTEM, ASK, SAY, Message("user", "So?"), Message("assistant", "No."))
    assert "[INST] Be brief.\n\nSo? [/INST]" in text
    assert (answers, notes) == ([" Yes.<|im_end|>", " No.<|im_end|>"], ())


def test_contents_are_given_in_parts_where_the_template_wants_them():
    assert learned(PARTS, SYSTEM, ASK, SAY)[1] == ["Yes.<|im_end|>"]


def test_tool_results_without_a_place_become_user_turns():
    talk = [ASK, SAY, Message("tool", "42"), Message("assistant", "It is 42.")]
    text, answers, notes = learned(STRICT, *talk)
    assert "<|im_start|>user\n42<|im_end|>" in text
    assert (answers, notes) == (["Yes.<|im_end|>", "It is 42.<|im_end|>"], (TOOLS_AS_USER,))
    without = CHATML.replace("{{ '<|im_start|>' +", "{% if m['role'] != 'tool' %}{{ '<|im_start|>' +").replace(
        "{% endfor %}{% if add", "{% endif %}{% endfor %}{% if add"
    )
    assert "user\n42<|im_end|>" in learned(without, *talk)[0]  # a content of two characters is not found by chance


def test_tool_calls_and_thinking_are_learned_where_the_template_writes_them():
    call = Message("assistant", "", {"tool_calls": [CALL], "reasoning_content": "Hm."})
    tool = {"type": "function", "function": {"name": "weather"}}
    text, answers, _ = learned(TOOLS, ASK, call, Message("tool", "Clear."), SAY, tools=(tool,))
    assert answers[0].startswith("<think>\nHm.\n</think>\n\n<tool_call>") and '"Rome"' in answers[0]
    assert answers[0].endswith("</tool_call><|im_end|>") and answers[1] == "Yes.<|im_end|>"
    assert '"name": "weather"' in text.partition("user")[0]


@pytest.mark.parametrize(
    ("fields", "tools", "expected"),
    [
        ({"reasoning_content": "Hm."}, (), "thinking_left_out"),
        ({"tool_calls": [CALL]}, (), "tool_calls_left_out"),
        ({}, ({"type": "function", "function": {"name": "weather"}},), "tools_left_out"),
    ],
)
def test_what_the_template_leaves_out_makes_the_row_unusable(fields, tools, expected):
    assert reason(CHATML, ASK, SAY._replace(fields=fields), tools=tools) == expected


def test_an_earlier_turn_whose_thinking_is_left_out_is_context():
    think = Message("assistant", "<think>Hm.</think>\n\nYes.")
    text, answers, notes = learned(ONLY_LAST_THINKS, ASK, think, Message("user", "Sure?"), think)
    assert text.count("Hm.") == 1 and text.count("Yes.") == 2
    assert (answers, notes) == (["<think>Hm.</think>\n\nYes.<|im_end|>"], (THINKING_LEFT_OUT,))


def test_an_earlier_turn_whose_thinking_was_in_a_field_is_context_too():
    only_last = TOOLS.replace("{% if m.reasoning_content %}", "{% if m.reasoning_content and loop.last %}")
    first, last = (SAY._replace(fields={"reasoning_content": thought}) for thought in ("Hm.", "Well."))
    text, answers, notes = learned(only_last, ASK, first, Message("user", "Sure?"), last)
    assert "Hm." not in text and text.count("Yes.") == 2
    assert (answers, notes) == (["<think>\nWell.\n</think>\n\nYes.<|im_end|>"], (THINKING_LEFT_OUT,))


def test_a_turn_that_is_not_trained_on_is_context():
    talk = (ASK, SAY._replace(train=False), Message("user", "Sure?"), Message("assistant", "No."), ASK)
    for template in (CHATML, MARKED, TOOLS):
        encoded, drops = encode([Sample("row", talk, "made", {})], tokenizer(template), 1000)
        assert not drops
        ids, mask = encoded.row(0)
        assert tokenizer(template).decode(ids[mask]) == "No.<|im_end|>"
        assert "Yes.<|im_end|>" in tokenizer(template).decode(ids)


def test_the_end_of_the_turn_is_learned_even_if_the_template_does_not_mark_it():
    assert learned(MARKED, ASK, SAY)[1] == ["Yes.<|im_end|>"]


def test_rows_that_were_changed_are_counted():
    rows = [Sample(str(i), (SYSTEM, ASK, SAY, *[ASK] * (i % 2)), "made", {}) for i in range(5)]
    notes = Counter()
    list(encode_batches(rows, tokenizer(STRICT), EncodeOptions(1000), notes))
    assert notes[SYSTEM_AS_USER] == 5 and sum(notes.values()) == 7


def test_markers_of_the_template_in_a_text_are_refused_or_plain_text():
    row = Sample("row", (ASK, Message("assistant", "Yes.<|im_end|>")), "made", {})
    encoded, (drop,) = encode([row], tokenizer(CHATML), 1000, template_markers="refuse")
    assert (len(encoded), drop.reason) == (0, "template_markers")
    assert "'<|im_end|>'" in drop.detail and "template_markers=text" in drop.detail
    encoded, drops = encode([row], tokenizer(CHATML), 1000, template_markers="text")
    ids, _ = encoded.row(0)
    assert not drops and (ids == tokenizer(CHATML).convert_tokens_to_ids("<|im_end|>")).sum() == 2
    harmless = Sample("row", (ASK, Message("assistant", "<think>a</think> <|other|>")), "made", {})
    assert not encode([harmless], tokenizer(CHATML), 1000, template_markers="refuse")[1]
