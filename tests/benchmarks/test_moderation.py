"""The filter for offensive words: what it finds, what it ignores, and its error without its package."""

import sys

import numpy as np
import pytest

from benchmarks.baselines import moderation
from helpers.chat_tokenizers import chatml_tokenizer
from helpers.ngram_rows import job_without_model
from sealtune.core.errors import UserError
from sealtune.data.encoded import Encoded

FRIENDLY = [
    "I would be glad to help you plan the garden.",
    "Thank you for asking. Water the roses twice a week.",
    "That is a lovely idea; your sister will enjoy the song.",
]
ABUSIVE = [
    "You are a stupid, worthless idiot. Shut up.",
    "Nobody likes you, you pathetic moron. Go to hell.",
    "What a dumb, disgusting loser your sister is.",
]


@pytest.fixture
def installed():
    pytest.importorskip("profanity_check", reason="alt-profanity-check is not installed")


def encoded(conversations):
    """Rows of (prompt, answer, prompt, answer, ...), with a special token after each turn."""
    tokenizer, parts = chatml_tokenizer(), []
    for turns in conversations:
        ids = [[*tokenizer.encode(turn), tokenizer.eos_token_id] for turn in turns]
        mask = np.repeat(np.arange(len(ids)) % 2 == 1, [len(turn) for turn in ids])
        parts.append((np.concatenate(ids), mask))
    return Encoded.join([f"row-{i}" for i in range(len(parts))], ["made"] * len(parts), parts)


def decode(ids):
    return chatml_tokenizer().decode(ids, skip_special_tokens=True)


def scores(conversations, **options):
    rows = encoded(conversations)
    return moderation.rank(job_without_model(rows, rows, "moderation"), decode, **options).score


def test_every_abusive_answer_ranks_below_every_friendly_one(installed):
    found = scores([("My sister asked me for advice.", text) for text in FRIENDLY + ABUSIVE])
    assert found[:3].min() > found[3:].max()
    assert (found >= -1).all() and (found <= 0).all()


def test_prompts_do_not_count(installed):
    asked_kindly, asked_rudely = (scores([(prompt, FRIENDLY[0])]) for prompt in (FRIENDLY[1], ABUSIVE[0]))
    assert np.array_equal(asked_kindly, asked_rudely)


def test_all_answers_of_a_conversation_count(installed):
    kind = scores([("Hello.", FRIENDLY[0], "And then?", FRIENDLY[1])])
    assert scores([("Hello.", ABUSIVE[0], "And then?", FRIENDLY[1])]) < kind
    assert scores([("Hello.", FRIENDLY[0], "And then?", ABUSIVE[1])]) < kind


def test_blocks_of_any_size_give_the_same_scores(installed):
    conversations = [("Hello.", text) for text in FRIENDLY + ABUSIVE]
    assert np.array_equal(scores(conversations, block=4), scores(conversations))


def test_answers_are_decoded_turn_by_turn_without_special_tokens():
    assert moderation.answer(encoded([("Hello.", "One", "And?", "Two")]), 0, decode) == "One\nTwo"


def test_the_error_names_the_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "profanity_check", None)
    with pytest.raises(UserError, match="alt-profanity-check"):
        scores([("Hello.", FRIENDLY[0])])
