"""Every chat template that TRL ships: no row is lost, the loss mask is TRL's own, and the prompt of evaluation is the
prefix on which answers were trained.

Where TRL itself fails or loses a part of the conversation, ours is the better rule: what is learned then has all of it.
"""

import copy
import re
from functools import cache
from pathlib import Path

import pytest
import trl
from jinja2 import TemplateError

from helpers.chat_tokenizers import byte_tokenizer
from sealtune.core.types import Message, Sample
from sealtune.data.chat_template import get_template_info
from sealtune.data.encode import encode, encode_prompt

FOLDER = Path(trl.__file__).parent / "chat_templates"
TEMPLATES = sorted(path.stem for path in FOLDER.glob("*.jinja") if not path.stem.endswith("_training"))
SPECIAL = re.compile(
    r"<[|\uff5c][^<>{}'\"\n]{1,40}?[|\uff5c]?>|<\w+\|>|<(?:start_of_turn|end_of_turn|end_of_utterance|/?s)>|\[/?INST\]"
)


def turns(*texts, system=None):
    roles = ["user", "assistant"] * len(texts)
    opening = [] if system is None else [Message("system", system)]
    return [*opening, *(Message(role, text) for role, text in zip(roles, texts, strict=False))]


CONVERSATIONS = {
    "one": turns("Hi there", "Yes: 4."),
    "system": turns("Hi there", "Yes: 4.", system="Be brief."),
    "two": turns("Hi", "Yes.", "So?", "No."),
    "two with system": turns("Hi", "Yes.", "So?", "No.", system="Be brief."),
    "thinking": turns("Hi", "<think>\nHm.\n</think>\n\nYes."),
    "whitespace": turns("Hi\n", "\nYes.\n\n"),
    "tool": [*turns("Hi", "Let me look."), Message("tool", "427"), Message("assistant", "It is so.")],
}


@cache
def tokenizer(name):
    text = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    tokens = sorted({found for found in SPECIAL.findall(text) if "think" not in found})
    return byte_tokenizer(text, tokens)


def encode_one(tokenizer, conversation):
    encoded, drops = encode([Sample("row", tuple(conversation), "made", {})], tokenizer, 10_000)
    assert not drops, drops[0].detail
    return encoded.row(0)


def learned_by_trl(name, conversation):
    """The text that TRL trains on; None if it has no variant of the template for training, or refuses the row."""
    variant = FOLDER / f"{name}_training.jinja"
    if not variant.exists():
        return None
    theirs = copy.deepcopy(tokenizer(name))
    theirs.chat_template = variant.read_text(encoding="utf-8")
    parts = get_template_info(tokenizer(name)).wants_parts
    messages = [
        {"role": turn.role, "content": [{"type": "text", "text": turn.content}] if parts else turn.content}
        for turn in conversation
    ]
    try:
        found = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True, tokenize=True)
    except (TemplateError, TypeError):
        return None
    if not all(turn.content.strip() in theirs.decode(found["input_ids"]) for turn in conversation):
        return None
    mask = found["assistant_masks"]
    return theirs.decode([token for token, masked in zip(found["input_ids"], mask, strict=True) if masked])


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("talk", CONVERSATIONS)
def test_what_is_learned_is_what_trl_learns(name, talk):
    conversation = CONVERSATIONS[talk]
    ids, mask = encode_one(tokenizer(name), conversation)
    text, learned = tokenizer(name).decode(ids), tokenizer(name).decode(ids[mask])
    expected = learned_by_trl(name, conversation)
    if expected is not None:
        assert learned.strip() == expected.strip()
    answers = [turn.content.strip() for turn in conversation if turn.role == "assistant"]
    assert all(answer.rpartition("</think>")[2].strip() in learned for answer in answers)
    assert all(turn.content.strip() in text for turn in conversation if turn.role != "assistant")
    assert ids[mask][-1] in tokenizer(name).get_added_vocab().values()


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_of_evaluation_is_the_prefix_of_training(name):
    ids, mask = encode_one(tokenizer(name), CONVERSATIONS["one"])
    assert encode_prompt(tokenizer(name), "Hi there") == ids[: mask.argmax()].tolist()
    opened = encode_prompt(tokenizer(name), "Hi there", opened=True)
    assert opened == ids[: len(opened)].tolist()
    assert tokenizer(name).decode(ids[len(opened) :]).strip().startswith("Yes: 4.")


def test_most_templates_have_a_mask_of_trl():
    masked = [name for name in TEMPLATES if learned_by_trl(name, CONVERSATIONS["one"]) is not None]
    assert len(masked) > len(TEMPLATES) / 2
