"""Scores made elsewhere: read from Parquet and CSV, and every way in which they do not fit the rows is named."""

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from helpers.rows import made_rows, write_jsonl
from helpers.tiny import random_rows
from sealtune.cli.main import app
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.ranking import methods
from sealtune.ranking.job import Job

ROWS = random_rows(6)


def write(folder, ids, scores, suffix="csv"):
    path = folder / f"scores.{suffix}"
    table = pd.DataFrame({"id": ids, "score": scores})
    table.to_parquet(path) if suffix == "parquet" else table.to_csv(path, index=False)
    return path


def rank(path, unusable=()):
    config = build_config({"model_name_or_path": "none", "rank": {"method": "imported", "scores": str(path)}})
    return methods.rank(Job(ROWS, ROWS.take([]), config, load_model=pytest.fail, unusable=unusable))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_scores_are_those_of_the_file_whatever_its_order(tmp_path, suffix):
    ids = list(ROWS.ids)
    scores = rank(write(tmp_path, ids[::-1], [5.5, 4, 3, 2, 1, 0], suffix))
    assert scores.by_id() == dict(zip(ids, [0, 1, 2, 3, 4, 5.5], strict=True))
    assert scores.weight.tolist() == [1] * 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids, s: (ids[1:], s[1:]), "1 of 6 rows without a score, for example id row-000"),
        (lambda ids, s: ([*ids, "else"], [*s, 1]), "1 id of no row of the data, for example else"),
        (lambda ids, s: ([*ids, *ids[3:5]], [*s, 1, 2]), "2 ids given more than once, for example row-003"),
        (lambda ids, s: (ids, [float("nan"), *s[1:]]), "1 score not a finite number, for example that of id row-000"),
        (lambda ids, s: (ids, [*s[:5], "high"]), "1 score not a finite number, for example that of id row-005"),
        (lambda ids, s: (ids, [*s[:5], float("inf")]), "1 score not a finite number, for example that of id row-005"),
    ],
)
def test_each_problem_is_one_line_with_a_count_and_an_example(tmp_path, change, message):
    path = write(tmp_path, *change(list(ROWS.ids), list(range(6))))
    with pytest.raises(UserError) as error:
        rank(path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


def test_two_problems_are_two_lines(tmp_path):
    with pytest.raises(UserError) as error:
        rank(write(tmp_path, ["row-001", "else"], [1, 2]))
    assert len(str(error.value).splitlines()) == 2


def test_rows_that_cannot_be_used_may_have_scores(tmp_path):
    assert len(rank(write(tmp_path, [*ROWS.ids, "broken"], range(7)), unusable=["broken"])) == 6


def test_a_file_without_the_columns_is_named(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("id,value\na,1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"scores.csv, line 2: no column 'score'"):
        rank(path)


def test_the_method_and_the_file_belong_together():
    for block in ({"method": "imported"}, {"scores": "x.csv"}):
        with pytest.raises(UserError, match="scores"):
            build_config({"model_name_or_path": "none", "rank": block})


def cli(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_rows_are_selected_and_reported_by_scores_made_elsewhere(project):
    """Without a safe set, and with a row that cannot be used: nothing is ranked here."""
    rows = [*made_rows(10, 1), {"id": "none", "prompt": "red", "response": ""}]
    write_jsonl(Path("candidates.jsonl"), rows)
    write(Path(), [row["id"] for row in rows], range(11))
    model = ("--model", project["model_name_or_path"], "--data", "candidates.jsonl", "--out", "out")
    outcome = cli("select", *model, "--scores", "scores.csv", "--keep", 0.8, "dtype=float32", "max_length=64")
    assert outcome.exit_code == 0, outcome.output
    kept, dropped = (
        [json.loads(line) for line in Path(f"out/select/{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("kept", "dropped")
    )
    assert [row["id"] for row in kept] == [f"1-{i}" for i in range(2, 10)]
    assert [row["sealtune"].get("ranked_by") for row in dropped] == ["imported from scores.csv"] * 2 + [None]
    assert cli("report", "--out", "out").exit_code == 0
    results = json.loads(Path("out/results.json").read_text("utf-8"))
    assert (results["method"], results["ranked_by"]) == ("imported", "imported from scores.csv")
    assert "ranked by the scores of scores.csv, which were made elsewhere" in Path("out/report.html").read_text("utf-8")

    outcome = cli("score", "--out", "out", "--data", "held.jsonl")
    assert outcome.exit_code == 2
    assert "imported scores only the rows that it ranks" in outcome.output
    assert "finished before from the same inputs" in cli("rank", "--out", "out").output
    write(Path(), [row["id"] for row in rows], range(11, 0, -1))
    assert "rank: finished in" in cli("rank", "--out", "out").output
    assert cli("tune", "--out", "out", "--scores", "scores.csv").exit_code == 2
