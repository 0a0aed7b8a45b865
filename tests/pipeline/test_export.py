"""Exports: what every tool reads is what the run trains on, or the export says what is not."""

import json
import runpy
import sys
import types
from pathlib import Path

import pytest
import trl
import yaml
from typer.testing import CliRunner

from helpers.chat_tokenizers import byte_tokenizer
from helpers.rows import made_rows, write_jsonl
from helpers.tiny import tiny_model
from sealtune.cli.main import app
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.pipeline import export as targets
from sealtune.pipeline.exporter import export
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "two"}}}
OTHER_CALL = {"type": "function", "function": {"name": "now", "arguments": {"zone": ["utc"]}}}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "d", "parameters": {"type": "object", **more}}}
    for name, more in {"add": {"properties": {"a": {"type": "integer"}}}, "now": {}}.items()
]
RICH = [
    {
        "id": "calls",
        "system": "Be short.",
        "tools": TOOLS,
        "messages": [
            {"role": "user", "content": "add"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "3", "name": "add"},
            {"role": "assistant", "content": "It is 3."},
        ],
    },
    {
        "id": "other-call",
        "tools": TOOLS[1:],
        "messages": [
            {"role": "user", "content": "now?"},
            {"role": "assistant", "content": "", "tool_calls": [OTHER_CALL]},
        ],
    },
    {
        "id": "thinks",
        "messages": [
            {"role": "user", "content": "why?"},
            {"role": "assistant", "content": "Because.", "reasoning_content": "Let me think."},
        ],
    },
    {
        "id": "evil",
        "messages": [{"role": "user", "content": "'''\"); exit(1)"}, {"role": "assistant", "content": "No."}],
    },
]
MASKED = {
    "id": "masked",
    "messages": [
        {"role": "user", "content": "red"},
        {"role": "assistant", "content": "a bad answer", "train": False},
        {"role": "user", "content": "fox"},
        {"role": "assistant", "content": "a good answer"},
        {"role": "user", "content": "dog"},
        {"role": "assistant", "content": "one more"},
        {"role": "user", "content": "nothing answers this"},
    ],
}


def selected(folder, model, rows, **rank):
    """A run that has ranked and selected these rows."""
    write_jsonl(folder / "rows.jsonl", rows)
    write_jsonl(folder / "safe.jsonl", made_rows(6, 2))
    write_jsonl(folder / "mixed.jsonl", [{"id": "added", "prompt": "blue", "response": "a list"}])
    settings = {
        "model_name_or_path": str(model),
        "dtype": "float32",
        "datasets": [str(folder / "rows.jsonl")],
        "safe_datasets": [str(folder / "safe.jsonl")],
        "output_dir": str(folder / "run"),
        "max_length": 512,
        "rank": {"method": "random"} | rank,
        "select": {"keep_ratio": 0.8, "mix_datasets": [str(folder / "mixed.jsonl")]},
        "tune": {"lora_r": 4, "learning_rate": 0.001, "num_train_epochs": 3, "lora_target_modules": ["q_proj"]},
    }
    run = Run(build_config(settings))
    for stage in ("rank", "select"):
        run_stage(run, stage)
    return Run(run.config)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tiny_folder):
    """A run on a template that does not mark answers, with weights and an answer that is context only."""
    rows = [*made_rows(8, 1), MASKED]
    settings = {"method": "seal", "num_train_epochs": 1, "learning_rate": 0.01, "selector_learning_rate": 3.0}
    run = selected(tmp_path_factory.mktemp("plain"), tiny_folder, rows, **settings)
    kept = json.loads(run.folder.path("select/kept_ids.json").read_text("utf-8"))
    if "masked" not in kept:  # whatever the ranking says, the row must be among those exported
        run.folder.write_strings("select/kept_ids.json", ["masked", *kept[1:]])
        manifest = run.folder.manifest()
        entry = manifest.stages["select"]
        run.folder.finish_stage("select", entry.inputs, entry.outputs, entry.facts(), {"config": manifest.config})
    return Run(run.config)


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """A run on the template of Qwen 3, whose answers TRL's variant of it marks, with tools and thinking."""
    folder = tmp_path_factory.mktemp("rich")
    template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text("utf-8")
    tokenizer = byte_tokenizer(template, ["<|im_start|>", "<|im_end|>", "<think>", "</think>"])
    model = tiny_model(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, max_position_embeddings=2048)
    for part in (model, tokenizer):
        part.save_pretrained(folder / "model")
    run = selected(folder, folder / "model", [*RICH], method="random")
    config = run.config.model_copy(update={"max_length": 2048})
    run = Run(config.model_copy(update={"select": config.select.model_copy(update={"keep_ratio": 1.0})}))
    for stage in ("rank", "select"):
        run_stage(run, stage)
    return Run(run.config)


def learned(run):
    """What sealtune learns of each row: token ids, and whether each is learned."""
    kept = run.inputs.load_candidates().encoded.isin(run.folder.kept_ids())
    every = kept.extend(run.inputs.tokenize(run.inputs.load_mix_rows()).encoded)
    return {row_id: tuple(part.tolist() for part in every.row(i)) for i, row_id in enumerate(every.ids)}


def lines(folder, name="rows.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def script_trainer(exported):
    return runpy.run_path(str(exported.folder / "train.py"))["make_trainer"](use_cpu=True)


# -- TRL -----------------------------------------------------------------------------------------------------------


def test_trl_learns_the_same_tokens_where_the_template_marks_answers(rich):
    exported = export(rich, "trl")
    trainer = script_trainer(exported)
    rows, tokenizer, ours = trainer.train_dataset, trainer.processing_class, learned(rich)
    assert set(rows["id"]) == set(ours) == {"calls", "other-call", "thinks", "evil", "added"}
    for row in rows:
        ids, mask = ours[row["id"]]
        assert row["input_ids"][: len(ids)] == ids
        assert [label != -100 for label in row["labels"]][: len(ids)] == mask
        assert tokenizer.decode(row["input_ids"][len(ids) :]) in ("", "\n")  # which we do not learn


def test_trl_learns_one_answer_a_row_where_the_template_marks_nothing(plain):
    exported = export(plain, "trl")
    trainer = script_trainer(exported)
    tokenizer, ours = trainer.processing_class, learned(plain)
    found = {row_id: set() for row_id in ours}
    for row in trainer.train_dataset:
        ids, _ = ours[row["id"]]
        found[row["id"]] |= {i for i, label in enumerate(row["labels"]) if label != -100}
        common = min(len(ids), len(row["input_ids"]))
        assert row["input_ids"][: common - 1] == ids[: common - 1]
    for row_id, (ids, mask) in ours.items():
        extra = found[row_id] - {i for i, one in enumerate(mask) if one}
        assert {i for i, one in enumerate(mask) if one} <= found[row_id]
        assert all(i >= len(ids) or tokenizer.decode([ids[i]]).strip() == "" for i in extra)  # the line break behind
    assert sum(row["id"] == "masked" for row in trainer.train_dataset) == 2
    assert any("1 conversation split" in note for note in exported.notes)
    trainer.args.max_steps = 1
    assert trainer.train().global_step == 1


def test_the_script_has_the_settings_of_the_run(plain):
    trainer = script_trainer(export(plain, "trl"))
    args, adapter = trainer.args, trainer.model.peft_config["default"]
    assert (args.learning_rate, args.num_train_epochs, args.max_length) == (0.001, 3, 512)
    assert (args.lr_scheduler_type, args.per_device_train_batch_size, args.seed) == ("cosine", 8, 0)
    assert (adapter.r, adapter.lora_alpha, set(adapter.target_modules)) == (4, 16, {"q_proj"})


# -- Unsloth -------------------------------------------------------------------------------------------------------


def test_unsloth_is_given_the_same_tokens_and_labels(plain, rich, monkeypatch):
    """Unsloth needs a GPU: a stand-in for its two calls loads the same model by transformers and PEFT."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    class FastLanguageModel:
        @staticmethod
        def from_pretrained(model_name, max_seq_length, dtype, load_in_4bit, full_finetuning):
            assert not (load_in_4bit or full_finetuning)
            model = AutoModelForCausalLM.from_pretrained(model_name, dtype=dtype)
            return model, AutoTokenizer.from_pretrained(model_name)

        @staticmethod
        def get_peft_model(model, use_gradient_checkpointing, random_state, **settings):
            return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))

    stand_in = types.ModuleType("unsloth")
    stand_in.FastLanguageModel = FastLanguageModel
    monkeypatch.setitem(sys.modules, "unsloth", stand_in)
    for run in (plain, rich):
        exported = export(run, "unsloth")
        rows, ids = script_trainer(exported).train_dataset, [line["id"] for line in lines(exported.folder)]
        ours = learned(run)
        for row_id, (tokens, mask) in ours.items():
            parts = [rows[i] for i, one in enumerate(ids) if one == row_id]
            if len(parts) == 1:
                assert parts[0]["input_ids"] == tokens
            found = {i for part in parts for i, label in enumerate(part["labels"]) if label != -100}
            if row_id != "calls":  # Qwen's template writes an empty block of thinking into the last answer alone
                assert found == {i for i, one in enumerate(mask) if one}, row_id


# -- LLaMA-Factory -------------------------------------------------------------------------------------------------


def llama_factory_would_read(folder):
    """The conversations, by the rules of its documentation for the sharegpt form. Raises AssertionError."""
    settings = yaml.safe_load((folder / "sft.yaml").read_text("utf-8"))
    info = json.loads((folder / "dataset_info.json").read_text("utf-8"))[settings["dataset"]]
    assert info["formatting"] == "sharegpt"
    tags, columns = info["tags"], info["columns"]
    for row in lines(folder, info["file_name"]):
        turns = row[columns["messages"]]
        assert len(turns) % 2 == 0
        for i, turn in enumerate(turns):
            assert turn.keys() == {tags["role_tag"], tags["content_tag"]}
            asked = {tags["user_tag"], tags["observation_tag"]}
            assert turn[tags["role_tag"]] in (asked if i % 2 == 0 else {tags["assistant_tag"], tags["function_tag"]})
            if turn[tags["role_tag"]] == tags["function_tag"]:
                assert all(call.keys() == {"name", "arguments"} for call in json.loads(turn[tags["content_tag"]]))
        if tools := row[columns["tools"]]:
            assert isinstance(json.loads(tools), list)
        assert isinstance(row[columns["system"]], str)
        yield row


LLAMA_FACTORY_KEYS = {
    *("model_name_or_path", "stage", "do_train", "finetuning_type", "lora_rank", "lora_alpha", "lora_dropout"),
    *("lora_target", "dataset", "dataset_dir", "cutoff_len", "mask_history", "output_dir", "num_train_epochs"),
    *("max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing"),
    *("learning_rate", "weight_decay", "max_grad_norm", "lr_scheduler_type", "logging_steps", "warmup_steps", "seed"),
    *("report_to", "save_strategy", "bf16", "fp16"),
}


def test_llama_factory_reads_calls_thinking_tools_and_system_prompts(rich):
    exported = export(rich, "llama-factory")
    rows = {row["id"]: row for row in llama_factory_would_read(exported.folder)}
    assert rows["calls"]["system"] == "Be short."
    assert [turn["from"] for turn in rows["calls"]["conversations"]] == ["human", "function_call", "observation", "gpt"]
    assert json.loads(rows["calls"]["conversations"][1]["value"]) == [CALL["function"]]
    assert rows["thinks"]["conversations"][1]["value"] == "<think>\nLet me think.\n</think>\n\nBecause."
    assert json.loads(rows["other-call"]["tools"]) == TOOLS[1:]
    settings = yaml.safe_load((exported.folder / "sft.yaml").read_text("utf-8"))
    assert settings.keys() == LLAMA_FACTORY_KEYS
    assert (settings["lora_target"], settings["mask_history"], settings["learning_rate"]) == ("q_proj", False, 0.001)


def test_llama_factory_learns_the_last_answer_of_split_conversations_if_one_is_masked(plain):
    exported = export(plain, "llama-factory")
    masked = [row["conversations"] for row in llama_factory_would_read(exported.folder) if row["id"] == "masked"]
    assert [turns[-1]["value"] for turns in masked] == ["a good answer", "one more"]
    assert yaml.safe_load((exported.folder / "sft.yaml").read_text("utf-8"))["mask_history"] is True
    assert any("conversations are split" in note for note in exported.notes)


# -- Axolotl -------------------------------------------------------------------------------------------------------

AXOLOTL_DATASET = {
    *("path", "ds_type", "type", "chat_template", "field_messages", "field_tools", "message_property_mappings"),
    *("message_field_training", "roles_to_train", "train_on_eos"),
}


def test_axolotl_reads_a_mark_at_every_answer(plain, rich):
    exported = export(plain, "axolotl")
    settings = yaml.safe_load((exported.folder / "axolotl.yaml").read_text("utf-8"))
    (dataset,) = settings["datasets"]
    assert dataset.keys() == AXOLOTL_DATASET
    mark = dataset["message_field_training"]
    masked = next(row for row in lines(exported.folder, dataset["path"]) if row["id"] == "masked")
    marks = [turn.get(mark) for turn in masked["messages"]]
    assert marks == [None, False, None, True, None, True]  # what nothing answers is cut
    assert (settings["adapter"], settings["lora_target_modules"], settings["micro_batch_size"]) == (
        "lora",
        ["q_proj"],
        8,
    )
    assert "eot_tokens" not in settings

    exported = export(rich, "axolotl")
    settings = yaml.safe_load((exported.folder / "axolotl.yaml").read_text("utf-8"))
    assert settings["eot_tokens"] == ["<|im_end|>"]  # the tokenizer's own end is another token
    rows = {row["id"]: row for row in lines(exported.folder)}
    call = rows["calls"]["messages"][2]["tool_calls"][0]["function"]
    assert json.loads(call["arguments"]) == CALL["function"]["arguments"]
    assert json.loads(rows["calls"]["tools"][0]["function"]["parameters"]) == TOOLS[0]["function"]["parameters"]
    assert rows["thinks"]["messages"][1]["reasoning_content"] == "Let me think."


# -- the hub's own form --------------------------------------------------------------------------------------------


def test_the_dataset_folder_is_read_by_datasets_and_by_sealtune_again(plain, rich, tmp_path):
    from datasets import load_dataset

    exported = export(plain, "hf", tmp_path / "weighted", weights=True)
    rows = load_dataset(str(exported.folder), split="train", cache_dir=tmp_path / "cache")
    assert rows.column_names == ["id", "source", "messages", "tools", "score", "weight"]
    assert sum(rows["weight"]) / len(rows) == pytest.approx(1) and len(set(rows["weight"])) > 2
    assert not any("weights" in note for note in exported.notes)
    masked = next(row for row in rows if row["id"] == "masked")
    assert [turn["train"] for turn in masked["messages"]] == [None, False, None, True, None, True]

    exported = export(rich, "hf", tmp_path / "rich")
    again = build_config(
        {
            "model_name_or_path": rich.config.model_name_or_path,
            "datasets": [str(exported.folder)],
            "max_length": 2048,
        }
    )
    from sealtune.pipeline.inputs import RunInputs

    encoded, ours = RunInputs(again).load_candidates().encoded, learned(rich)
    for i, row_id in enumerate(encoded.ids):
        assert tuple(part.tolist() for part in encoded.row(i)) == ours[row_id], row_id
    assert len(encoded) == len(ours)


# -- all of them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", targets.names())
def test_what_is_not_carried_is_said(plain, name, tmp_path):
    exported = export(plain, name, tmp_path / "out", weights=True)
    readme = (exported.folder / "README.md").read_text("utf-8")
    assert all(note in readme for note in exported.notes)
    target = targets.load_target(name)
    assert any("has no weights of rows" in note for note in exported.notes) != target.has_weights
    assert any("the safe set is not in force" in note for note in exported.notes) == target.trains
    kept = len(run_ids(plain)) + 1
    assert f"{kept - 1} rows that sealtune kept" in readme or f"# {kept} fine-tuning rows" in readme


def run_ids(run):
    return json.loads(run.folder.path("select/kept_ids.json").read_text("utf-8"))


def test_a_folder_of_others_is_not_replaced_and_an_export_is(plain, tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="no export has written"):
        export(plain, "trl", tmp_path)
    export(plain, "trl", tmp_path / "new")
    export(plain, "hf", tmp_path / "new")
    assert not (tmp_path / "new" / "train.py").exists()
    assert (tmp_path / "mine.txt").exists()


def test_special_tokens_in_texts_are_named(rich, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"id": "x", "prompt": "what is <|eos|>?", "response": "an end"}])
    config = rich.config.model_copy(update={"output_dir": str(tmp_path / "run")})
    run = Run(
        config.model_copy(
            update={"datasets": [config.datasets[0].model_copy(update={"path": str(tmp_path / "rows.jsonl")})]}
        )
    )
    for stage in ("rank", "select"):
        run_stage(run, stage)
    for name in ("trl", "llama-factory"):
        assert any("1 row spelling out special tokens" in note for note in export(run, name).notes)


def cli(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "trll"], "no target 'trll'; did you mean 'trl'?"),
        (["--to", "trl", "--push", "me/x"], "--push: only with --to hf"),
        (["--to", "hf", "--yes"], "--yes: belongs to --push"),
        (["--to", "hf", "--push", "a/b/c"], "--push: "),
    ],
)
def test_an_error_of_the_command_is_one_line(plain, words, message):
    outcome = cli("export", plain.folder.root, *words)
    assert outcome.exit_code == 2
    assert message in outcome.output and outcome.output.count("error:") == 1


def test_the_command_prints_where_it_wrote_and_what_is_not_carried(plain):
    outcome = cli("export", plain.folder.root, "--to", "trl", "--weights")
    assert outcome.exit_code == 0, outcome.output
    assert "note: TRL has no weights of rows: all count the same" in outcome.output
    assert f"start it in {plain.folder.root}/export/trl: python train.py" in outcome.output
    assert cli("export", plain.folder.root.parent, "--to", "trl").exit_code == 2
