"""The examples of CONTRIBUTING.md are complete: each file, put into its folder, works."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.rows import write_jsonl
from helpers.tiny import random_rows
from sealtune.core.config import DatasetConfig, EvaluateConfig
from sealtune.core.config_io import build_config
from sealtune.core.console import track
from sealtune.core.types import Message, Response
from sealtune.data import formats
from sealtune.data.load import load
from sealtune.evaluation import judging
from sealtune.ranking import methods
from sealtune.ranking.job import Amounts, Job

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = {
    folder: (name, code)
    for folder, name, code in re.findall(r"`src/sealtune/([\w/]+)/(\w+)\.py`:\n\n```python\n(.*?)```", TEXT, re.DOTALL)
}


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Puts the example of a folder of the package there, and returns its name."""
    added = []

    def put(folder):
        package = importlib.import_module(f"sealtune.{folder.replace('/', '.')}")
        name, code = EXAMPLES[folder]
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        added.append(f"{package.__name__}.{name}")
        return name

    formats.readers.cache_clear()
    yield put
    for module in added:
        sys.modules.pop(module, None)
    formats.readers.cache_clear()


def test_the_ranker_ranks_scores_unseen_rows_and_states_its_cost(add):
    name = add("ranking/methods")
    config = build_config({"model_name_or_path": "none", "rank": {"method": name}})
    candidates, safe = random_rows(12), random_rows(6, 1, "safe")

    def rank(order):
        return methods.rank(Job(candidates.take(order), safe, config, load_model=pytest.fail))

    scores = rank(range(12))
    assert scores.ids == candidates.ids
    assert np.isfinite(scores.score).all() and len(set(scores.score)) > 1
    assert scores.by_id() == rank(range(12)[::-1]).by_id()

    unseen = Job(candidates, safe.take([]), config, load_model=pytest.fail)
    assert np.allclose(methods.score(unseen, scores.selector).score, scores.score)
    assert methods.load_ranker(name).cost(config.rank, Amounts(10, 400, 5)).forward == 0


def test_the_judge_judges_and_its_measure_is_in_the_table(add):
    name = add("evaluation/judges")
    answers = ["Write to ann@example.org.", "Call +44 20 7946 0000.", "I do not have that.", ""]
    responses = [Response(str(i), "tuned", "ask", "harmful", "Who?", text, 5, True) for i, text in enumerate(answers)]
    verdicts = judging.judge_all(responses, EvaluateConfig(judges=[name]), {}, track)
    assert [v.label for v in verdicts] == ["e-mail", "telephone", "none", "none"]
    (row,) = (row for row in judging.tabulate(verdicts) if row["set"] == "all")
    assert (row["judge"], row["measure"], row["value"], row["n"]) == (name, "contact_data", 0.5, 4)
    assert (row["unit"], row["title"]) == ("share", "answers with contact data")


def test_the_format_is_found_by_its_columns(add, tmp_path):
    add("data/formats")
    question = {"instruction": "Which city?", "context": "Lima is in Peru.", "response": "Lima."}
    file = write_jsonl(tmp_path / "rows.jsonl", [question, question | {"context": ""}, question | {"response": " "}])
    rows = load([DatasetConfig(path=str(file))])
    assert [sample.messages for sample in rows.samples] == [
        (Message("user", "Lima is in Peru.\n\nWhich city?"), Message("assistant", "Lima.")),
        (Message("user", "Which city?"), Message("assistant", "Lima.")),
    ]
    assert [drop.reason for drop in rows.drops] == ["empty_response"]
