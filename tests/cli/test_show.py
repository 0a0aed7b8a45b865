"""``sealtune show``: a ranking in the terminal, at any width, with and without colour, whatever the rows contain."""

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from helpers.hostile_text import CONTROLS, HOSTILE
from helpers.rows import made_rows, write_jsonl
from sealtune.cli import main
from sealtune.cli import show as command
from sealtune.cli.histogram import histogram
from sealtune.core.config_io import build_config
from sealtune.core.types import Decision, Scores
from sealtune.pipeline.overview import Overview
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import run_stage
from sealtune.report.sentences import sentences
from sealtune.report.tables import score_bins
from sealtune.report.view import ReportView

AT = "2026-11-27T18:00:00+00:00"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_folder):
    """A run that has ranked, and nothing else; some of its rows are hostile."""
    place = tmp_path_factory.mktemp("show")
    rows = [*made_rows(20, 1), {"id": f"h{HOSTILE}", "prompt": f"ask {HOSTILE}", "response": HOSTILE, "unsafe": 1}]
    write_jsonl(place / "rows.jsonl", rows)
    write_jsonl(place / "safe.jsonl", made_rows(6, 2))
    values = {
        "model_name_or_path": str(tiny_folder),
        "dtype": "float32",
        "datasets": [str(place / "rows.jsonl")],
        "safe_datasets": [str(place / "safe.jsonl")],
        "label_column": "unsafe",
        "output_dir": str(place / "out"),
        "max_length": 200,
        "rank": {"method": "loss"},
    }
    run_stage(Run(build_config(values)), "rank")
    return place


def show(folder, *words, **environment):
    done = CliRunner().invoke(main.app, ["show", str(folder), *map(str, words)], env=environment)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def is_escaped(text):
    return not any(control in text for control in CONTROLS if control != "\n")


def test_a_ranking_alone_is_shown_with_the_threshold_that_would_be_used(folder):
    text = show(folder / "out", "--rows", 21, COLUMNS="200")
    assert "21 fine-tuning rows were ranked against the safe set. No rows have been selected yet." in text
    assert "the threshold would be" in text and "── threshold -" in text
    assert "This ranker does not estimate how many rows are unsafe." in text
    assert text.count("labelled unsafe") == 2 * 5 and "kept" not in text
    assert is_escaped(text) and "\\u202e" in text
    before = json.loads(show(folder / "out", "--json"))
    assert before["selected"] is False and before["rows"] == {"ranked": 21, "unusable": 0}


def test_a_selection_is_shown_with_what_people_decided(folder):
    made = {"id": "1-3", "decision": "drop", "by": f"Ann{HOSTILE}", "at": AT}
    write_jsonl(folder / "decisions.jsonl", [made])
    words = ["select", "--out", str(folder / "out"), "--decisions", str(folder / "decisions.jsonl"), "--quiet"]
    done = CliRunner().invoke(main.app, words)
    assert done.exit_code == 0 and done.stderr == "" and done.stdout.strip() == str(folder / "out/select/kept.jsonl")
    text = show(folder / "out", "--rows", 21, COLUMNS="200")
    assert is_escaped(text)
    assert "People decided to keep 0 of them and to drop 1" in text and "█ kept  ░ dropped" in text
    assert text.count(": drop  1-3") == 1, "among the worst rows, not among those to decide about"
    found = json.loads(show(folder / "out", "--json", "--rows", 2))
    assert found["decisions"] == {"kept": 0, "dropped": 1, "unsure": 0, "overruled": 1}
    assert [len(found[name]) for name in ("worst", "least_certain")] == [2, 2]
    assert found["worst"][0]["score"] <= found["worst"][1]["score"]
    assert sum(bins["rows"] for bins in found["histogram"]) == 21
    assert sum(bins["kept"] for bins in found["histogram"]) == found["rows"]["kept"] == 17


def test_json_is_one_line_of_ascii(folder):
    text = show(folder / "out", "--json")
    assert text.isascii() and text.count("\n") == 1 and text.endswith("\n")
    assert any(HOSTILE in row["response"] for row in json.loads(show(folder / "out", "--json", "--rows", 21))["worst"])


def test_a_folder_whose_rows_are_gone_is_shown_without_texts(folder):
    hidden = (folder / "rows.jsonl").rename(folder / "away.jsonl")
    try:
        text = show(folder / "out", COLUMNS="200")
    finally:
        hidden.rename(folder / "rows.jsonl")
    assert "The texts of the rows are not shown:" in text and "rows.jsonl" in text and "worst rows" in text


def test_no_file_is_written(folder):
    def times():
        return {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*")}

    before = times()
    show(folder / "out")
    assert times() == before


def test_what_is_no_run_is_named_in_one_line(tmp_path):
    done = CliRunner().invoke(main.app, ["show", str(tmp_path)])
    assert done.exit_code == 2 and done.stderr.startswith(f"error: {tmp_path}: not the folder of a run")
    assert len(done.stderr.splitlines()) == 1


# -- the page, without a run -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def view():
    random = np.random.default_rng(0)
    ids = [f"r{i}" for i in range(50)]
    scores = Scores.unweighted(ids, ["s"] * 50, random.normal(size=50), standard_error=np.full(50, 0.3))
    kept = [ids[i] for i in np.argsort(scores.score)[10:]]
    texts = dict.fromkeys(ids, ("写一首诗" * 60, "a\tb\n" * 90))
    return ReportView(
        scores=scores, kept=kept, texts=texts, manifest={"stages": {"rank": {}, "select": {}}}, rows_shown=3
    )


class FakeRun:
    config = build_config({"model_name_or_path": "org/model"})
    folder = type("Folder", (), {"root": "runs/x"})


def page(view, width, **settings):
    target = io.StringIO()
    cut = float(np.sort(view.scores.score)[10])
    console = Console(file=target, width=width, highlight=False, **settings)
    command._print(Overview(view, cut, [], None), FakeRun, console)
    return target.getvalue()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(view, width):
    from rich.cells import cell_len

    lines = page(view, width).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert sum("…" in line for line in lines) >= 12, "each text is cut to one line"
    bars = [line.count("█") + line.count("░") for line in lines]
    assert max(bars) > min(width, 100) / 2, "the histogram uses the width"


def test_colours_are_shown_on_a_terminal_and_not_with_no_colour(view):
    terminal = {"force_terminal": True, "color_system": "standard"}
    assert "\x1b[32m" in page(view, 80, **terminal) and "\x1b[31m" in page(view, 80, **terminal)
    plain = page(view, 80, no_color=True, **terminal)
    assert not re.search(r"\x1b\[[\d;]*3\d", plain) and "░" in plain and "█" in plain
    assert "\x1b" not in page(view, 80)


def test_the_threshold_parts_the_bins_and_every_row_is_in_one():
    scores = Scores.unweighted(list("abcdef"), ["s"] * 6, np.array([-9.0, 0.0, 1.0, 1.0, 2.0, 3.0]))
    made = {"a": Decision("a", "keep", "Ann", AT)}
    shown = ReportView(scores=scores, kept=["a", "c", "d", "e", "f"], decisions=made)
    bins = score_bins(shown, 1.0, 4)
    assert [(found["rows"], found["kept"]) for found in bins] == [(1, 1), (0, 0), (0, 0), (1, 0), (4, 4)]
    assert bins[4]["from"] == pytest.approx(1.0)
    lines = [line.plain for line in histogram(bins, 1.0, Console(file=io.StringIO(), width=40))]
    assert "threshold 1" in lines[4] and lines[5].strip().startswith("1.00 █")
    assert [found["rows"] for found in score_bins(replace(shown, scores=scores.take([2, 3])), 1.0, 4)] == [2]
    assert score_bins(ReportView(), None, 4) == []


def test_a_kind_of_row_is_seen_however_few_there_are():
    bins = [{"from": 0.0, "to": 1.0, "rows": 5000, "kept": 4999}, {"from": 1.0, "to": 2.0, "rows": 1, "kept": 1}]
    lines = [line.plain for line in histogram(bins, None, Console(file=io.StringIO(), width=40))]
    assert lines[0].count("░") == 1 and lines[1].count("█") == 1


def test_an_ascii_terminal_gets_ascii_bars(view):
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=40)
    assert all(line.plain.isascii() for line in histogram(score_bins(view, 0.1, 8), 0.1, console))


# -- the sentences ---------------------------------------------------------------------------------------------------


def measured(measure, set_name, model, value, difference=None, unit="score"):
    row = {"measure": measure, "set": set_name, "kind": "", "judge": "", "model": model, "unit": unit, "title": measure}
    return (
        row | {"value": value, "n": 9, "low": value, "high": value} | ({"difference": difference} if difference else {})
    )


def test_the_sentences_say_what_the_tuning_did(view):
    stages = {name: {} for name in ("rank", "select", "tune", "evaluate")}
    evaluation = [
        measured("discrimination", "all", "base", 0.8),
        measured("discrimination", "all", "tuned", 0.9, {"value": 0.1, "low": 0.05, "high": 0.15}),
        measured("J", "all", "base", 0.5),
        measured("J", "all", "tuned", 0.4, {"value": -0.1, "low": -0.3, "high": 0.1}),
        measured("loss", "held_out", "base", 1.3, unit="nats"),
        measured("loss", "held_out", "tuned", 1.2, {"value": -0.1, "low": -0.2, "high": -0.05}, unit="nats"),
        measured("over_refusal", "all", "tuned", 0.25, unit="share"),
    ]
    uncertain = {
        "estimated_unsafe": {"share": 0.22, "low": 0.1, "high": 0.3, "significant": True},
        "borderline_rows": 1,
    }
    text = " ".join(sentences(replace(view, manifest={"stages": stages}, evaluation=evaluation, uncertainty=uncertain)))
    assert "About 22.0% of the rows look unsafe (between 10.0% and 30.0%)." in text
    assert "1 row lies within 2 standard errors of the threshold." in text
    assert (
        "Safety, before → after tuning: Discrimination 0.800 → 0.900 (better); J 0.500 → 0.400 (no clear change)."
        in text
    )
    assert "Held-out loss 1.300 → 1.200 (better); Over-refusal 25.0% (lower is better)." in text


def test_the_sentences_say_what_has_not_been_done(view):
    assert sentences(view)[-1] == "The model has not been tuned yet."
    tuned = replace(view, manifest={"stages": {"tune": {}}})
    assert sentences(tuned)[-1] == "The tuned model has not been evaluated yet."
