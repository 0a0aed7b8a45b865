"""The safe set of a run: what its files hold, and how the start model would answer it."""

from pathlib import Path

import pytest
import torch

from helpers.few_prompts import all_shipped
from helpers.rows import made_rows, write_jsonl
from sealtune.core.config import Config
from sealtune.data.encode import encode_prompt
from sealtune.models.load import load_model
from sealtune.models.openings import encode_openings, refusal_log_probs
from sealtune.pipeline import safe_set_examination
from sealtune.pipeline.check import check
from sealtune.pipeline.inputs import RunInputs
from sealtune.pipeline.safe_set_examination import ask_start_model, examine_safe_set, is_small
from sealtune.pipeline.safe_set_findings import split

PROMPTS = [row["prompt"] for row in made_rows(12, 8)]
REFUSE, HELP = "I cannot help with that.", "a quick list"


@pytest.fixture
def inputs(project):
    rows = [{"prompt": prompt, "response": (REFUSE, HELP)[i % 2]} for i, prompt in enumerate(PROMPTS)]
    write_jsonl(Path("safe.jsonl"), rows)
    return RunInputs(Config(**project))


def named(findings):
    return {finding.name: finding for finding in findings}


def refusal(inputs, prompts):
    """The log-probability of refusing prompts, each asked alone."""
    model, tokenizer = load_model(inputs.config), inputs.load_tokenizer()
    openings = encode_openings(tokenizer)
    asked = [encode_prompt(tokenizer, prompt, opened=True) for prompt in prompts]
    return torch.cat([refusal_log_probs(model, [tokens], openings) for tokens in asked])


def test_the_start_model_is_asked_both_halves(inputs, monkeypatch):
    found = refusal(inputs, PROMPTS).exp()
    middle = found.sort().values[4:6].mean()  # a random model would refuse none or all of them
    monkeypatch.setattr(safe_set_examination, "LIKELY", float(middle))
    safe = inputs.load_safe()
    refused = found > middle
    found = ask_start_model(inputs, split(safe.rows.samples), safe.encoded)
    assert found == (6, refused[::2].sum(), 6, refused[1::2].sum())
    assert found.refusing_refused + found.helping_refused == 7


def test_the_last_prompt_of_a_conversation_is_asked_with_all_before_it(inputs):
    turns = [("system", "Be kind."), ("user", "red"), ("assistant", "blue"), ("user", "fox"), ("assistant", REFUSE)]
    write_jsonl(Path("safe.jsonl"), [{"messages": [{"role": r, "content": c} for r, c in turns]}])
    safe, tokenizer = inputs.load_safe(), inputs.load_tokenizer()
    (asked,) = safe_set_examination._prompts(list(safe.rows.samples), safe.encoded, tokenizer)
    messages = [{"role": r, "content": c} for r, c in turns[:-1]]
    assert asked == tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def test_only_small_models_in_local_files_are_asked_unless_it_is_wanted(inputs, monkeypatch):
    assert is_small(inputs)
    assert "refusing half" in named(examine_safe_set(inputs))
    assert "refusing half" not in named(examine_safe_set(inputs, False))
    monkeypatch.setattr(safe_set_examination, "MAX_PARAMETERS", 10)
    assert not is_small(inputs)
    assert "refusing half" not in named(examine_safe_set(inputs))
    assert "refusing half" in named(examine_safe_set(inputs, True))
    hub = RunInputs(inputs.config.model_copy(update={"model_name_or_path": "someone/model"}))
    assert not is_small(hub)


def test_asked_rows_are_spread_and_limited():
    assert safe_set_examination._spread(3, 4) == [0, 1, 2]
    assert safe_set_examination._spread(10, 4) == [0, 2, 5, 7]
    assert safe_set_examination._spread(0, 4) == []


def test_unusable_rows_do_not_count(inputs):
    rows = [{"prompt": p, "response": REFUSE} for p in PROMPTS] + [{"prompt": "red " * 200, "response": HELP}]
    write_jsonl(Path("safe.jsonl"), rows)
    assert named(examine_safe_set(inputs, False))["halves"].fact.startswith("12 rows (100%) refuse, 0 rows")


def test_prompts_of_the_evaluation_are_compared_own_and_default(inputs, monkeypatch):
    monkeypatch.setattr("sealtune.evaluation.likelihood.default_prompts", all_shipped)
    write_jsonl(Path("ask.jsonl"), [{"prompt": PROMPTS[0]}, {"prompt": "blue or red"}])
    assert "1 exact" in named(examine_safe_set(inputs, False))["asked"].fact
    default = "What do I need to produce skyr at home?"
    write_jsonl(Path("safe.jsonl"), [{"prompt": default, "response": HELP}])
    own = RunInputs(inputs.config)
    assert "0 exact" in named(examine_safe_set(own, False))["asked"].fact
    evaluate = inputs.config.evaluate.model_copy(update={"prompts": []})
    without = RunInputs(inputs.config.model_copy(update={"evaluate": evaluate}))
    assert "1 exact" in named(examine_safe_set(without, False))["asked"].fact
    evaluate.likelihood = False
    assert "0 exact" in named(examine_safe_set(RunInputs(without.config), False))["asked"].fact


def test_the_page_shows_facts_and_advice(inputs):
    lines = check(inputs, model_answers=False).sections["what the safe set can teach"]
    assert "6 rows (50%) refuse, 6 rows (50%) help" in lines
    assert any(line.startswith("advice: 12 rows; gather more") for line in lines)
    assert "--model-answers measures it" in lines[-1]
    asked = check(inputs).sections["what the safe set can teach"]
    assert "of 6 rows of the helping half" in asked[-1]


def test_findings_are_no_loss(inputs):
    """Advice does not make the check fail."""
    assert not any("half" in line or "twin" in line for line in check(inputs).lost)
