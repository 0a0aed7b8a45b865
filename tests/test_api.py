import subprocess
import sys
from dataclasses import replace

import datasets
import pandas as pd
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import sealtune
from helpers.rows import made_rows, write_jsonl
from helpers.tiny import tiny_model, with_random_lora
from sealtune.core.errors import UserError
from sealtune.core.types import Message, Sample
from sealtune.data.encode import encode
from sealtune.models.causal_lm import dataset_losses
from sealtune.pipeline import inputs

SETTINGS = {"dtype": "float32", "max_length": 64}


def test_the_functions_work_on_objects(tiny_folder):
    rows, safe = list(made_rows(12, 1)), list(made_rows(4, 2))
    scores = sealtune.rank(str(tiny_folder), rows, safe, rank={"num_train_epochs": 1}, **SETTINGS)
    assert scores.ids == tuple(row["id"] for row in rows)
    kept = sealtune.select(scores, keep_ratio=0.5).kept
    assert len(kept) == 6
    model, tokenizer = sealtune.tune(str(tiny_folder), rows, keep=kept, tune={"max_steps": 1}, **SETTINGS)
    prompts = [{"prompt": "red fox", "kind": "harmful"}, {"prompt": "blue dog", "kind": "harmless"}]
    table = sealtune.evaluate(model, tokenizer, prompts, max_new_tokens=3)
    assert {row["measure"] for row in table} == {"attack_success_rate", "over_refusal"}
    with pytest.raises(UserError, match="1 ids are not among the rows, for example none"):
        sealtune.tune(str(tiny_folder), rows, keep=["none"], **SETTINGS)


def test_rows_may_be_a_data_frame_or_a_dataset_and_scores_become_a_frame(tiny_folder):
    rows, settings = list(made_rows(6, 1)), SETTINGS | {"rank": {"method": "loss"}}
    rows[2]["note"] = "kept as it is"  # a missing cell in all other rows
    found = [
        sealtune.rank(str(tiny_folder), given, list(made_rows(4, 2)), **settings)
        for given in (rows, pd.DataFrame(rows), datasets.Dataset.from_list(rows))
    ]
    frames = [scores.to_pandas() for scores in found]
    assert frames[0].equals(frames[1]) and frames[0].equals(frames[2])
    assert frames[0].index.tolist() == [row["id"] for row in rows]
    assert frames[0]["score"].tolist() == found[0].score.tolist()
    table = replace(found[0], ids=("<b>", *found[0].ids[1:]))._repr_html_()
    assert "6 rows" in table and "&lt;b&gt;" in table and "<b>" not in table


@pytest.mark.parametrize("block", [{"method": "probe"}, {"method": "seal", "lora_dropout": 0.1}, {"use_peft": False}])
def test_a_model_in_memory_is_ranked_with_and_given_back_as_it_was(tiny_folder, block):
    rows, safe = list(made_rows(8, 1)), list(made_rows(4, 2))
    settings = {"max_length": 64, "rank": {"num_train_epochs": 1, **block}}
    if "use_peft" in block:
        settings["rank"]["method"] = "seal"
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype="float32").train()
    model.model.norm.weight.requires_grad = False
    model.config.use_cache = True
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules = [(name, type(module), module.training) for name, module in model.named_modules()]
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    found = sealtune.rank(model, rows, safe, tokenizer, **settings)
    expected = sealtune.rank(str(tiny_folder), rows, safe, dtype="float32", **settings)
    assert found.score.tolist() == expected.score.tolist()
    new = list(made_rows(3, 5))
    if block.get("method") == "probe":
        again = sealtune.score(model, new, found, **settings)
        assert (
            again.score.tolist()
            == sealtune.score(str(tiny_folder), new, found, dtype="float32", **settings).score.tolist()
        )
    assert [(name, type(module), module.training) for name, module in model.named_modules()] == modules
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["model.norm.weight"]
    assert model.config.use_cache and not hasattr(model, "peft_config")
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_a_model_in_memory_has_no_adapter_and_a_tokenizer(tiny_folder):
    rows = list(made_rows(4, 1))
    nameless = tiny_model()
    with pytest.raises(UserError, match="the model does not say where it was loaded from"):
        sealtune.rank(nameless, rows, rows)
    adapted = with_random_lora(AutoModelForCausalLM.from_pretrained(tiny_folder), 1)
    with pytest.raises(UserError, match="merge_and_unload"):
        sealtune.rank(adapted, rows, rows, AutoTokenizer.from_pretrained(tiny_folder), rank={"method": "loss"})


def test_scores_are_drawn(tiny_folder, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    scores = sealtune.rank(str(tiny_folder), list(made_rows(9, 1)), list(made_rows(4, 2)), rank={"method": "loss"})
    axes = scores.plot(threshold=-3.0)
    assert sum(bar.get_height() for bar in axes.patches) == 9
    assert axes.get_legend_handles_labels()[1] == ["threshold -3"]
    assert scores.plot(ax=axes) is axes
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(UserError, match="matplotlib is not installed"):
        scores.plot()


SAFE = [
    {"prompt": f"red or blue {i}", "response": "i cannot" if i % 2 else "a quick list", "kind": kind}
    for i, kind in enumerate(["harmless", "harmful"] * 6)
]


def test_a_safe_set_guards_the_tuning(tiny_folder, caplog):
    rows, tuned = list(made_rows(12, 1)), {}
    for guard in ("off", "teach"):
        settings = {"guard": guard, "guard_weight": 8.0, "learning_rate": 0.02, "max_steps": 12}
        with caplog.at_level("INFO", "sealtune"):
            model, tokenizer = sealtune.tune(str(tiny_folder), rows, safe=SAFE, tune=settings, **SETTINGS)
        tuned[guard] = sum(loss_of(model, tokenizer, SAFE))
        assert ("6 safe rows answer harmful prompts, 6 harmless ones" in caplog.text) == (guard == "teach")
    assert tuned["teach"] < tuned["off"] - 1
    with pytest.raises(UserError, match=r"guard_column: row .* of safe has prompt="):
        sealtune.tune(str(tiny_folder), rows, safe=SAFE, tune={"guard_column": "prompt"}, **SETTINGS)


def loss_of(model, tokenizer, rows):
    """The loss of every row."""
    samples = [
        Sample(str(i), (Message("user", r["prompt"]), Message("assistant", r["response"])), "s", r)
        for i, r in enumerate(rows)
    ]
    encoded, _ = encode(samples, tokenizer, 64)
    return [float(loss) for _, losses in dataset_losses(model, encoded, 4) for loss in losses]


def test_an_adapter_is_repaired_in_place(tiny_folder, tmp_path):
    full = {"use_peft": False, "learning_rate": 0.005, "max_steps": 40}
    aligned, tokenizer = sealtune.tune(str(tiny_folder), SAFE, tune=full, **SETTINGS)
    for part in (aligned, tokenizer):
        part.save_pretrained(tmp_path)
    rows = [row | {"response": "red is what you want"} for row in SAFE]
    settings = {"learning_rate": 0.02, "max_steps": 30, "lora_target_modules": "all-linear"}
    model, tokenizer = sealtune.tune(str(tmp_path), rows, tune=settings, **SETTINGS)
    before = sum(loss_of(model, tokenizer, SAFE))
    done = sealtune.repair(model, SAFE, rows, tokenizer, tune={"guard": "teach", "learning_rate": 0.01}, **SETTINGS)
    assert done.repaired["refuse"] < done.tuned["refuse"] / 2
    assert done.steps > 0
    assert sum(loss_of(model, tokenizer, SAFE)) < before - 1
    with pytest.raises(UserError, match="no LoRA adapter; only LoRA can be repaired"):
        sealtune.repair(aligned, SAFE, tokenizer=tokenizer, **SETTINGS)


def test_every_source_is_loaded_once_per_call(tiny_folder, monkeypatch):
    loaded, load = [], inputs.load

    def counting(configs, *rest):
        loaded.append([config.path for config in configs])
        return load(configs, *rest)

    monkeypatch.setattr(inputs, "load", counting)
    rows, model = list(made_rows(6, 1)), str(tiny_folder)
    sealtune.rank(model, rows, list(made_rows(4, 2)), rank={"method": "loss"}, **SETTINGS)
    assert sorted(loaded) == [["rows"], ["safe"]]
    loaded.clear()
    sealtune.tune(model, rows, tune={"max_steps": 1}, **SETTINGS)
    assert loaded == [["rows"]]


def test_the_library_is_silent(tiny_folder, tmp_path):
    for name, rows in (("rows.jsonl", made_rows(6, 1)), ("safe.jsonl", made_rows(4, 2))):
        write_jsonl(tmp_path / name, rows)
    arguments = f"{str(tiny_folder)!r}, 'rows.jsonl', 'safe.jsonl', dtype='float32', max_length=64"
    code = f"import sealtune; sealtune.rank({arguments}, rank={{'method': 'loss'}})"
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert shown.stdout == ""
    assert "rank" not in shown.stderr and "rows" not in shown.stderr


def test_importing_the_package_and_its_help_loads_no_torch():
    heavy = ("torch", "transformers", "pydantic")
    code = f"import sys, sealtune, sealtune.cli; print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_answers_are_not_scored_one_by_one_in_memory(tiny_folder):
    rows = list(made_rows(4, 1))
    with pytest.raises(UserError, match="use the command `sealtune run`"):
        sealtune.rank(str(tiny_folder), rows, rows, select={"granularity": "turn"}, **SETTINGS)
    scores = sealtune.rank(str(tiny_folder), rows, rows, rank={"method": "random"}, **SETTINGS)
    with pytest.raises(UserError, match="these functions score whole rows"):
        sealtune.select(scores, granularity="turn")
