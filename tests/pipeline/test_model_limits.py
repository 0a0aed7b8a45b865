"""What a model cannot do is reported before any work: its length, its layers, its quantisation."""

import json
import logging

import pytest

from helpers.chat_tokenizers import chatml_tokenizer
from helpers.families import family_model
from helpers.rows import write_jsonl
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import check_run, run_stage

LONG = "a quick list " * 30


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A folder with a model of 48 learned positions."""
    folder, tokenizer = tmp_path_factory.mktemp("gpt2"), chatml_tokenizer()
    family_model("gpt2", len(tokenizer), n_positions=48).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def rows(project, tmp_path):
    """The project, with rows and a prompt of more than 48 tokens."""
    long = [{"prompt": f"red or blue {n}", "response": LONG} for n in range(6)]
    write_jsonl(tmp_path / "candidates.jsonl", long)
    write_jsonl(tmp_path / "ask.jsonl", [{"prompt": "red"}, {"prompt": LONG}])
    return project | {"max_length": 256, "label_column": None, "rank": {"method": "loss"}}


def told(caplog):
    return [message for message in caplog.messages if message.startswith("max_length")]


def test_rows_are_cut_to_the_positions_of_the_model_with_one_warning(rows, gpt2, caplog):
    inputs = Run(build_config(rows | {"model_name_or_path": str(gpt2)})).inputs
    lengths = [*inputs.load_candidates().encoded.lengths, *inputs.load_safe().encoded.lengths]
    assert max(lengths) == 48
    assert told(caplog) == ["max_length 256 is more than the 48 positions of the model; using 48"]


def test_the_tokens_are_those_of_a_max_length_that_fits(rows, gpt2):
    found = []
    for length in (256, 48):
        config = build_config(
            rows | {"model_name_or_path": str(gpt2), "max_length": length, "output_dir": f"out{length}"}
        )
        found.append(Run(config).inputs.load_candidates().encoded)
    first, second = found
    assert first.tokens.tolist() == second.tokens.tolist() and first.mask.tolist() == second.mask.tolist()


def test_a_max_length_that_fits_is_kept_in_silence(rows, gpt2, caplog):
    inputs = Run(build_config(rows | {"model_name_or_path": str(gpt2), "max_length": 48})).inputs
    assert inputs.max_length() == 48 and not told(caplog)


def test_the_ranking_model_has_its_own_length(rows, gpt2, caplog):
    config = build_config(rows | {"rank": {"method": "loss", "model_name_or_path": str(gpt2)}})
    inputs = Run(config).inputs
    assert inputs.load_ranking_candidates().lengths.max() == 48
    assert inputs.load_candidates().encoded.lengths.max() > 48
    assert told(caplog) == ["max_length 256 is more than the 48 positions of the ranking model; using 48"]


def test_a_prompt_must_fit_together_with_its_answer(rows, gpt2):
    found = Run(build_config(rows | {"model_name_or_path": str(gpt2)})).inputs.load_prompts()
    assert [prompt.prompt for prompt in found.asked] == ["red", "red"]
    assert all("with 4 new tokens more than the model's context of 48" in drop.detail for drop in found.drops)
    assert len(found.drops) == 2


def test_gpt2_is_ranked_and_tuned_without_settings_and_its_manifest_says_the_same(rows, gpt2, caplog):
    config = build_config(rows | {"model_name_or_path": str(gpt2), "rank": {"method": "excess_loss"}})
    with caplog.at_level(logging.INFO, "sealtune"):
        run = Run(config)
        check_run(run)
        for stage in ("rank", "select", "tune"):
            run_stage(run, stage)
    assert [m for m in caplog.messages if "LoRA on" in m] == [
        "rank: LoRA on c_attn, as PEFT does for gpt2",
        "tune: LoRA on c_attn, as PEFT does for gpt2",
    ]
    assert json.loads(run.folder.path("tune/adapter_config.json").read_text())["target_modules"] == ["c_attn"]
    again = build_config(run.folder.manifest().config)
    assert again == config and "lora_target_modules" not in again.tune.model_fields_set


@pytest.mark.parametrize("stage", [None, "rank", "tune"])
def test_names_of_no_layer_are_refused_before_a_model_is_loaded(rows, gpt2, monkeypatch, stage):
    run = Run(
        build_config(
            rows
            | {
                "model_name_or_path": str(gpt2),
                "rank": {"lora_target_modules": ["q_proj"]},
                "tune": {"lora_target_modules": ["q_proj"]},
            }
        )
    )
    monkeypatch.setattr(Run, "load_model", lambda *_args, **_kwargs: pytest.fail("a model is loaded"))
    if stage == "tune":
        monkeypatch.setattr(type(run.folder), "outputs_of", lambda *_: {})
    with pytest.raises(UserError, match=r"lora_target_modules: q_proj name no layer of GPT2LMHeadModel"):
        run_stage(run, stage) if stage else check_run(run)


def test_a_guarded_tuning_asks_no_more_than_the_positions_of_the_model(rows, gpt2, tmp_path):
    safe = [{"prompt": f"red {n}", "response": ("i cannot " if n % 2 else "blue ") + LONG} for n in range(8)]
    write_jsonl(tmp_path / "safe.jsonl", [{"prompt": LONG, "response": "i cannot", "kind": "harmful"}, *safe])
    tune = {"max_steps": 2, "guard": "teach", "guard_column": None}
    run = Run(build_config(rows | {"model_name_or_path": str(gpt2), "tune": tune}))
    for stage in ("rank", "select", "tune", "evaluate", "report"):
        run_stage(run, stage)
    watched = [json.loads(line) for line in (tmp_path / "out/tune/guard.jsonl").read_text().splitlines()]
    assert len(watched) == 2
