import subprocess
import sys

import pytest

import sealtune
from helpers.rows import made_rows, write_jsonl
from sealtune.core.errors import UserError
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
