"""``sealtune check`` says on one page what was understood, writes nothing, and fails if something would be lost."""

import json
import re
from pathlib import Path

from typer.testing import CliRunner

from helpers.rows import made_rows, write_jsonl
from sealtune.cli.main import app

ASK = {"role": "user", "content": "Which colour is the sky above the old town today?"}


def check(config, *words):
    Path("config.yaml").write_text(json.dumps(config))
    result = CliRunner().invoke(app, ["check", "config.yaml", *words], env={"COLUMNS": "200", "NO_COLOR": "1"})
    return result.exit_code, " ".join(result.stdout.split())


def test_clean_inputs_lose_nothing(project):
    project["datasets"] = ["clean.jsonl"]
    write_jsonl(Path("clean.jsonl"), made_rows(12, 5))
    before = sorted(Path().rglob("*"))
    code, page = check(project)
    assert code == 0, page
    assert "12 usable rows of 12" in page and "6 usable rows of 6" in page
    assert "clean.jsonl: 12 rows as prompt_response (prompt, response); carried along:" in page
    assert "turns: 12 user, 12 assistant" in page
    assert "duplicates: 0 exact, 0 exact or near" in page
    assert "<|im_start|>assistant ⟦" in page
    assert "refusal: ready" in page
    assert page.endswith("nothing")
    assert sorted(path for path in Path().rglob("*") if path.name != "config.yaml") == before


def test_what_would_be_lost_is_said(project):
    same = {"role": "assistant", "content": "The sky is as blue as it was yesterday, and very clear."}
    rows = [
        {"messages": [ASK, same]},
        {"messages": [ASK, same | {"content": same["content"] + " Indeed."}]},
        {"messages": [ASK, same]},
        {"messages": [{"role": "system", "content": "Be kind."}, ASK, same, ASK]},
        {"messages": [ASK, same | {"train": False}, ASK, same]},
        {"messages": [ASK, {"role": "critic", "content": "x"}]},
        {"messages": [ASK, same | {"content": "It ends early.<|im_end|>"}]},
        {"messages": [ASK, same | {"content": "word " * 300}]},
    ]
    write_jsonl(Path("rows.jsonl"), rows)
    write_jsonl(Path("safe.jsonl"), [rows[0], *made_rows(3, 2)])
    code, page = check(project | {"datasets": ["rows.jsonl"], "label_column": None, "max_length": 160})
    assert code == 2
    assert "2 unusable: 1 unknown role 'critic', 1 template markers '<|im_end|>'" in page
    assert "1 system" in page and "assistant turns: 1 marked as context" in page
    assert "candidates that are in it too: 2 exact, 3 exact or near" in page
    assert re.search(r"duplicates: 1 exact, [23] exact or near", page)
    lost = page.partition("what would be lost")[2]
    assert "2 candidates of the safe set: their ranking says nothing" in lost
    assert "1 row: the turns after their last answer are cut off" in lost
    assert "2 rows of max_length=160 or more tokens may be cut" in lost
    assert "no role 'critic'" in lost


def test_template_markers_are_plain_text_on_request(project):
    row = {"prompt": "Say it.", "response": "It ends early.<|im_end|>"}
    write_jsonl(Path("rows.jsonl"), [row, {"prompt": "a", "response": "b and so on"}])
    config = project | {"datasets": ["rows.jsonl"], "label_column": None}
    assert "1 unusable: 1 template markers '<|im_end|>'" in check(config)[1]
    code, page = check(config, "template_markers=text")
    assert code == 0 and "2 usable rows of 2" in page


def test_a_dead_judge_would_lose_the_verdicts(project):
    project["datasets"] = ["clean.jsonl"]
    write_jsonl(Path("clean.jsonl"), made_rows(12, 5))
    judge = {"name": "harmfulness", "base_url": "http://127.0.0.1:9/v1", "model": "m", "max_retries": 0}
    project["evaluate"] = {"judges": [judge]}
    code, page = check(project)
    assert code == 2
    assert "harmfulness" in page.partition("what would be lost")[2]
