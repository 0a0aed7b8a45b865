"""The filter for offensive words: what it finds, what it leaves alone, and what it says when it cannot work."""

import importlib
import sys

import numpy as np
import pytest

import sealtune
from helpers.chat_tokenizers import chatml_tokenizer
from helpers.rows import write_jsonl
from sealtune.core.config_io import build_config
from sealtune.core.errors import RunError, UserError
from sealtune.data.encoded import Encoded
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage
from sealtune.ranking import methods, ngrams
from sealtune.ranking.job import Job
from sealtune.ranking.methods import moderation

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
    pytest.importorskip("profanity_check", reason="sealtune[moderation] is not installed")


def encoded(conversations):
    """Rows of (prompt, answer, prompt, answer, ...), with a special token behind each turn."""
    tokenizer, parts = chatml_tokenizer(), []
    for turns in conversations:
        ids = [[*tokenizer.encode(turn), tokenizer.eos_token_id] for turn in turns]
        mask = np.repeat(np.arange(len(ids)) % 2 == 1, [len(turn) for turn in ids])
        parts.append((np.concatenate(ids), mask))
    return Encoded.join([f"row-{i}" for i in range(len(parts))], ["made"] * len(parts), parts)


def job(conversations, **changes):
    rows = encoded(conversations)
    config = build_config({"model_name_or_path": "none", "rank": {"method": "moderation"}})
    changes = {"decode": lambda ids: chatml_tokenizer().decode(ids, skip_special_tokens=True)} | changes
    return Job(rows, rows, config, lambda full: pytest.fail("no model is needed"), **changes)


def score(conversations):
    return methods.rank(job(conversations)).score


def test_every_abusive_answer_ranks_below_every_friendly_one(installed):
    found = score([("My sister asked me for advice.", text) for text in FRIENDLY + ABUSIVE])
    assert found[:3].min() > found[3:].max()
    assert (found >= -1).all() and (found <= 0).all()


def test_prompts_do_not_count(installed):
    asked_kindly, asked_rudely = (score([(prompt, FRIENDLY[0])]) for prompt in (FRIENDLY[1], ABUSIVE[0]))
    assert np.array_equal(asked_kindly, asked_rudely)


def test_all_answers_of_a_conversation_count(installed):
    kind = score([("Hello.", FRIENDLY[0], "And then?", FRIENDLY[1])])
    assert score([("Hello.", ABUSIVE[0], "And then?", FRIENDLY[1])]) < kind
    assert score([("Hello.", FRIENDLY[0], "And then?", ABUSIVE[1])]) < kind


def test_answers_are_decoded_turn_by_turn_without_special_tokens():
    assert moderation.answer(job([("Hello.", "One", "And?", "Two")]), 0) == "One\nTwo"


def test_progress_tells_the_rows_of_each_block(installed, monkeypatch):
    conversations, steps = [("Hello.", text) for text in FRIENDLY + ABUSIVE], []
    whole = score(conversations)
    monkeypatch.setattr(ngrams.blocks, "__defaults__", (4,))
    in_blocks = methods.rank(job(conversations, on_step=lambda *step: steps.append(step)))
    assert np.array_equal(in_blocks.score, whole)
    assert [(record.step, record.rows, total) for record, total, _ in steps] == [(1, 4, 2), (2, 2, 2)]


def test_without_the_package_the_module_loads_and_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "profanity_check", None)
    importlib.reload(moderation)
    with pytest.raises(UserError, match=r"pip install 'sealtune\[moderation\]'"):
        score([("Hello.", FRIENDLY[0])])


def test_a_caller_without_texts_is_told(installed):
    with pytest.raises(RunError, match="gives none"):
        methods.rank(job([("Hello.", FRIENDLY[0])], decode=methods.no_texts))


def test_the_verb_and_the_stage_give_it_texts(installed, project, tmp_path):
    rows = [{"id": f"{i}", "prompt": "red fox", "response": text} for i, text in enumerate(FRIENDLY + ABUSIVE)]
    settings = {"dtype": "float32", "max_length": 256, "rank": {"method": "moderation"}}
    scores = sealtune.rank(project["model_name_or_path"], rows, rows[:2], **settings)
    assert scores.score[:3].min() > scores.score[3:].max()
    write_jsonl(tmp_path / "candidates.jsonl", rows)
    stage = Run(build_config(project | settings))
    run_stage(stage, "rank")
    assert stage.folder.read_scores().by_id() == scores.by_id()
