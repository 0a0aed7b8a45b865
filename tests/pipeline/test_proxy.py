"""One model ranks, another is tuned (``rank.model_name_or_path``)."""

import json
from pathlib import Path

import numpy as np
import pytest

import sealtune
from helpers.chat_tokenizers import gemma_tokenizer
from helpers.rows import made_rows, write_jsonl
from helpers.tiny import tiny_model
from sealtune.core.config import DatasetConfig
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage
from sealtune.pipeline.score import score
from sealtune.pipeline.stages import STAGES


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    """A smaller model of another family, whose template requires alternating roles."""
    folder, tokenizer = tmp_path_factory.mktemp("proxy"), gemma_tokenizer()
    tiny_model(seed=1, vocab_size=len(tokenizer), num_hidden_layers=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def settings(project, proxy):
    rows = [{"id": row["id"], "prompt": row["prompt"], "response": row["response"]} for row in made_rows(12, 1)]
    rows[3] |= {"id": "the assistant begins", "prompt": "", "response": ""}
    turns = [{"role": role, "content": "red fox"} for role in ("assistant", "user", "assistant")]
    rows = [
        {
            "id": row["id"],
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["response"]},
            ],
        }
        for row in rows
    ]
    rows[3]["messages"] = turns
    write_jsonl(Path("candidates.jsonl"), rows)
    project["label_column"] = None
    project["rank"] |= {"method": "probe", "model_name_or_path": proxy}
    return project


def test_the_small_model_ranks_and_the_large_model_is_tuned(settings, proxy):
    run = Run(build_config(settings))
    for stage in STAGES:
        run_stage(run, stage)
    scores = run.folder.read_scores()
    assert len(scores) == 11
    (unusable,) = [row for row in run.folder.read_jsonl("select/dropped.jsonl") if row["sealtune"]["rank"] is None]
    assert unusable["id"] == "the assistant begins"
    assert "for the ranking model" in unusable["sealtune"]["reason"]
    tuned = json.loads(Path("out/tune/adapter_config.json").read_text())
    assert tuned["base_model_name_or_path"] == settings["model_name_or_path"]
    rank = settings["rank"] | {"model_name_or_path": None}
    own = Run(build_config(settings | {"model_name_or_path": proxy, "rank": rank, "output_dir": "own"}))
    run_stage(own, "rank")
    np.testing.assert_array_equal(own.folder.read_scores().score, scores.score)


def test_new_rows_are_scored_by_the_model_that_ranked(settings):
    run = Run(build_config(settings))
    run_stage(run, "rank")
    score(run, [DatasetConfig(path="candidates.jsonl")])
    found = {row["id"]: row["sealtune"]["score"] for row in run.folder.read_jsonl("score/rows.jsonl")}
    assert found.pop("the assistant begins") is None
    assert len(found) == 11
    changed = settings | {"rank": settings["rank"] | {"model_name_or_path": None}}
    with pytest.raises(UserError, match="rank, ranked_by changed"):
        score(Run(build_config(changed)), [DatasetConfig(path="candidates.jsonl")])


def test_the_python_api_accepts_a_ranking_model(settings, proxy):
    rank = {"method": "loss", "model_name_or_path": proxy}
    given = {"dtype": "float32", "max_length": 64}
    scores = sealtune.rank(settings["model_name_or_path"], "candidates.jsonl", "safe.jsonl", rank=rank, **given)
    own = sealtune.rank(proxy, "candidates.jsonl", "safe.jsonl", rank={"method": "loss"}, **given)
    assert scores.ids == own.ids
    np.testing.assert_array_equal(scores.score, own.score)


def test_the_ranking_model_must_not_change_between_stages(settings):
    run = Run(build_config(settings))
    for stage in ("rank", "select"):
        run_stage(run, stage)
    settings["rank"] = settings["rank"] | {"model_name_or_path": None}
    with pytest.raises(UserError, match="ranked_by changed since the rows were ranked"):
        run_stage(Run(build_config(settings)), "tune")


def test_no_row_is_usable_by_the_ranking_model(settings):
    rows = [json.loads(line) for line in Path("candidates.jsonl").read_text(encoding="utf-8").splitlines()]
    write_jsonl(Path("candidates.jsonl"), [row for row in rows if row["id"] == "the assistant begins"])
    with pytest.raises(UserError, match="no usable row is left of 1"):
        run_stage(Run(build_config(settings)), "rank")
