"""``select.granularity=turn`` in a run: ranked, selected, tuned on, reported and exported."""

import json
import random
from pathlib import Path

import pytest

from helpers.rows import WORDS, write_jsonl
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.data.turn_rows import answers
from sealtune.pipeline import turns
from sealtune.pipeline.exporter import export
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage
from sealtune.pipeline.stages.tune import _training_rows


def talks(n, seed):
    """Conversations of one to three answers."""
    chance = random.Random(seed)
    for i in range(n):
        roles = ["user", "assistant"] * (1 + i % 3)
        texts = [" ".join(chance.choices(WORDS, k=chance.randint(2, 6))) for _ in roles]
        messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        yield {"id": f"talk-{i}", "messages": messages, "unsafe": int(i % 4 == 0)}


@pytest.fixture
def by_turn(project, tmp_path):
    write_jsonl(tmp_path / "candidates.jsonl", talks(18, 1))
    project["max_length"] = 200  # no conversation is too long
    project["select"] = {"granularity": "turn", "keep_ratio": 0.5}
    return project


def read(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("method", ["probe", "seal"])
def test_answers_are_ranked_masked_and_not_learned(by_turn, method, capsys):
    by_turn["rank"]["method"] = method
    job = Run(build_config(by_turn))
    for stage in ("rank", "select", "tune", "evaluate", "report"):
        run_stage(job, stage)
    scored = turns.read_scores(job.folder)
    assert len(scored.scores) == 36 and scored.number.max() == 3
    kept, masked = read("out/select/kept.jsonl"), turns.read_masked(job.folder)
    assert sum(len(row["messages"]) // 2 for row in kept) - sum(map(len, masked.values())) == 18
    assert masked
    threshold = job.folder.manifest().stages["select"].threshold
    of = {(row, n): s for row, n, s in zip(scored.scores.ids, scored.number, scored.scores.score, strict=True)}
    for row in kept:
        marks = [turn.get("weight", 1) for turn in row["messages"] if turn["role"] == "assistant"]
        assert [n for n, mark in enumerate(marks, 1) if mark == 0] == masked.get(row["id"], [])
        assert [int(of[row["id"], n] >= threshold) for n in range(1, len(marks) + 1)] == marks
    rows = _training_rows(job)
    for i, row_id in enumerate(rows.ids):
        whole = 1 + int(row_id.split("-")[1]) % 3
        assert len(list(answers(rows.row(i)[1]))) == whole - len(masked.get(row_id, []))
    results = json.loads(Path("out/results.json").read_text())
    assert results["rows"]["masked_turns"] == sum(map(len, masked.values()))
    assert "18 rows" in capsys.readouterr().err


def test_exports_carry_the_masks(by_turn):
    by_turn["rank"]["method"] = "random"
    job = Run(build_config(by_turn))
    for stage in ("rank", "select"):
        run_stage(job, stage)
    export(job, "axolotl")
    (file,) = Path("out/export/axolotl").glob("*.jsonl")
    answered = [turn for row in read(file) for turn in row["messages"] if turn["role"] == "assistant"]
    assert sum(turn.get("train", True) for turn in answered) == 18  # half of them
    assert any(turn.get("train") is False for turn in answered)  # those before the last that is learned


def test_rows_with_one_answer_are_ranked_as_before(project):
    job = Run(build_config(project))
    for stage in ("rank", "select"):
        run_stage(job, stage)
    whole = job.folder.read_scores().score.tolist(), list(job.folder.kept_ids())
    job = Run(build_config(project | {"select": {"granularity": "turn"}, "output_dir": "turns"}))
    for stage in ("rank", "select"):
        run_stage(job, stage)
    assert (job.folder.read_scores().score.tolist(), list(job.folder.kept_ids())) == whole
    assert turns.read_masked(job.folder) == {}


def test_whole_rows_that_were_ranked_are_not_selected_by_answer(by_turn):
    by_turn["rank"]["method"] = "random"
    run_stage(Run(build_config(by_turn | {"select": {}})), "rank")
    with pytest.raises(UserError, match="whole rows were ranked here; rank again"):
        run_stage(Run(build_config(by_turn)), "select")
    run_stage(Run(build_config(by_turn)), "rank")
    run_stage(Run(build_config(by_turn)), "select")
    run_stage(Run(build_config(by_turn | {"select": {}})), "rank")
    run_stage(job := Run(build_config(by_turn | {"select": {}})), "select")
    assert turns.read_masked(job.folder) == {}


def test_a_damaged_file_of_masks_is_one_line(by_turn):
    by_turn["rank"]["method"] = "random"
    job = Run(build_config(by_turn))
    for stage in ("rank", "select"):
        run_stage(job, stage)
    write_jsonl(job.folder.path(turns.MASKED), [{"id": "talk-1", "turns": "all"}])
    with pytest.raises(UserError, match=r"masked_turns\.jsonl: not a list of masked turns; select again"):
        turns.read_masked(job.folder)


def test_imported_scores_are_those_of_whole_rows(by_turn):
    by_turn["rank"] |= {"method": "imported", "scores": "scores.csv"}
    with pytest.raises(UserError, match=r"select\.granularity=turn: imported scores are those of whole rows"):
        build_config(by_turn)
