import subprocess
import sys

import pytest

import sealtune
from helpers.rows import made_rows
from sealtune.core.errors import UserError


def test_the_verbs_work_on_objects(tiny_folder):
    rows, safe = list(made_rows(12, 1)), list(made_rows(4, 2))
    settings = {"dtype": "float32", "max_length": 64}
    scores = sealtune.rank(str(tiny_folder), rows, safe, rank={"num_train_epochs": 1}, **settings)
    assert scores.ids == tuple(row["id"] for row in rows)
    kept = sealtune.select(scores, keep_ratio=0.5).kept
    assert len(kept) == 6
    model, tokenizer = sealtune.tune(str(tiny_folder), rows, keep=kept, tune={"max_steps": 1}, **settings)
    prompts = [{"prompt": "red fox", "kind": "harmful"}, {"prompt": "blue dog", "kind": "harmless"}]
    table = sealtune.evaluate(model, tokenizer, prompts, max_new_tokens=3)
    assert {row["measure"] for row in table} == {"compliance", "over_refusal"}
    with pytest.raises(UserError, match="1 ids are not among the rows, for example none"):
        sealtune.tune(str(tiny_folder), rows, keep=["none"], **settings)


def test_importing_the_package_and_its_help_loads_no_torch():
    heavy = ("torch", "transformers", "pydantic")
    code = f"import sys, sealtune, sealtune.cli; print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
