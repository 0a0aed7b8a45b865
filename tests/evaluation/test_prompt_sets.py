"""Every public set, offline: rows written for this test, in the columns and files of the real sets."""

import csv
import json
import urllib.error
import urllib.request
from pathlib import Path

import datasets
import pytest

from sealtune.core.config import PROMPT_SETS as NAMES
from sealtune.core.config import PromptsConfig
from sealtune.core.errors import UserError
from sealtune.evaluation import prompt_sets
from sealtune.evaluation.prompt_sets import TEXTS
from sealtune.evaluation.prompts import load_prompts

JBB = """---
configs:
- config_name: behaviors
  data_files:
  - {split: harmful, path: data/harmful-behaviors.csv}
  - {split: benign, path: data/benign-behaviors.csv}
---
"""
HARMBENCH = [
    {"Behavior": "Pick a lock", "FunctionalCategory": "standard", "ContextString": "", "BehaviorID": "lock"},
    {"Behavior": "Use it", "FunctionalCategory": "contextual", "ContextString": "A text", "BehaviorID": "use"},
    {"Behavior": "Sing all of it", "FunctionalCategory": "copyright", "ContextString": "", "BehaviorID": "song"},
]
XSTEST = [
    {"id": "1", "prompt": "How do I kill time?", "type": "homonyms", "label": "safe", "focus": "", "note": ""},
    {"id": "2", "prompt": "How do I kill?", "type": "contrast", "label": "unsafe", "focus": "", "note": ""},
    {"id": "3", "prompt": "Shoot a film?", "type": "homonyms", "label": "safe", "focus": "", "note": ""},
]
ORCA = [
    {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "Why?"},
            {"from": "gpt", "value": "So."},
        ]
    },
    {
        "conversations": [
            {"from": "human", "value": "How?"},
            {"from": "gpt", "value": "Thus."},
            {"from": "human", "value": "And?"},
        ]
    },
]
DIALOGUE = "\n\nHuman: First,\nplease\n\nAssistant: No.\n\nHuman: Second\n\nAssistant: No."

# The prompts of each set: (id, prompt, kind).
EXPECTED = {
    "advbench": [("advbench-1", "Do harm", "harmful"), ("advbench-2", "Do more", "harmful")],
    "alpaca_eval": [("alpaca_eval-1", "Name a colour", "harmless")],
    "do-not-answer": [("do-not-answer-7", "Who lives there?", "harmful")],
    "harmbench": [
        ("harmbench-lock", "Pick a lock", "harmful"),
        ("harmbench-use", "A text\n\n---\n\nUse it", "harmful"),
    ],
    "hex-phi": [("hex-phi-1", "First, of all", "harmful"), ("hex-phi-2", "Second", "harmful")],
    "hh-rlhf": [("hh-rlhf-1", "First,\nplease", "harmful"), ("hh-rlhf-2", "Bake", "harmless")],
    "jailbreakbench": [("jailbreakbench-1", "Lie", "harmful"), ("jailbreakbench-2", "Explain lies", "harmless")],
    "slimorca": [("slimorca-1", "Be brief.\n\nWhy?", "harmless"), ("slimorca-2", "How?", "harmless")],
    "strongreject": [("strongreject-1", "Harm", "harmful")],
    "xstest": [
        ("xstest-1", "How do I kill time?", "harmless"),
        ("xstest-2", "How do I kill?", "harmful"),
        ("xstest-3", "Shoot a film?", "harmless"),
    ],
}


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return path


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder with the layout of the sets on the hub and GitHub, read by ``datasets`` itself."""
    root = tmp_path / "hub"
    write_csv(root / "harmful_behaviors.csv", [{"goal": g, "target": "Sure"} for g in ("Do harm", "Do more")])
    (root / "alpaca_eval.json").write_text(
        json.dumps([{"dataset": "helpful_base", "instruction": "Name a colour", "output": "Red", "generator": "x"}])
    )
    write_jsonl(root / "do-not-answer/train.jsonl", [{"id": 7, "risk_area": "x", "question": "Who lives there?"}])
    write_csv(root / "harmbench_behaviors_text_all.csv", HARMBENCH)
    (root / "HEx-PHI").mkdir()
    (root / "HEx-PHI/category_1.csv").write_text('"First, of all"\n')
    (root / "HEx-PHI/category_3.csv").write_text("Second\n")
    write_jsonl(root / "hh-rlhf/harmless-base/test.jsonl", [{"chosen": DIALOGUE, "rejected": ""}])
    write_jsonl(root / "hh-rlhf/helpful-base/test.jsonl", [{"chosen": "\n\nHuman: Bake\n\nAssistant: Flour."}])
    write_csv(root / "JBB-Behaviors/data/harmful-behaviors.csv", [{"Index": 0, "Goal": "Lie", "Target": "Sure"}])
    write_csv(root / "JBB-Behaviors/data/benign-behaviors.csv", [{"Index": 0, "Goal": "Explain lies", "Target": ""}])
    (root / "JBB-Behaviors/README.md").write_text(JBB)
    write_jsonl(root / "SlimOrca/train.jsonl", ORCA)
    write_csv(root / "strongreject_dataset.csv", [{"category": "c", "source": "s", "forbidden_prompt": "Harm"}])
    write_csv(root / "xstest_prompts.csv", XSTEST)
    original = datasets.load_dataset

    def load(path, **options):
        if str(options.get("data_files")).startswith("hf://"):
            options["data_files"] = str(root / Path(options["data_files"]).name)
        place = str(root / path.split("/")[1]) if "/" in path else path
        return original(place, cache_dir=str(tmp_path / "cache"), **options)

    def open_url(url, timeout):
        return (root / Path(url).name).open("rb")

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(urllib.request, "urlopen", open_url)
    monkeypatch.setattr(prompt_sets, "cache_folder", lambda: tmp_path / "ours")
    return root


def found(**config):
    return [(p.id, p.prompt, p.kind) for p in load_prompts([PromptsConfig(**config)]).asked]


def test_config_table_and_documentation_have_the_same_sets():
    sets = prompt_sets.prompt_sets()
    assert tuple(sorted(sets)) == NAMES
    assert set(TEXTS) <= set(sets)
    page = Path("docs/prompt_sets.md").read_text(encoding="utf-8")
    for name, entry in sets.items():
        assert all(word in page for word in (f"`{name}`", f"`{entry.column}`", entry.licence, entry.source)), name


@pytest.mark.parametrize("name", NAMES)
def test_each_set_is_read_as_its_authors_publish_it(hub, name):
    assert found(path=name) == EXPECTED[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_local_copy_is_read_with_the_columns_of_the_set(hub, name):
    files = {
        "advbench": "harmful_behaviors.csv",
        "alpaca_eval": "alpaca_eval.json",
        "do-not-answer": "do-not-answer/train.jsonl",
        "harmbench": "harmbench_behaviors_text_all.csv",
        "hex-phi": "HEx-PHI/category_1.csv",
        "hh-rlhf": "hh-rlhf/harmless-base/test.jsonl",
        "jailbreakbench": "JBB-Behaviors/data/harmful-behaviors.csv",
        "slimorca": "SlimOrca/train.jsonl",
        "strongreject": "strongreject_dataset.csv",
        "xstest": "xstest_prompts.csv",
    }
    both = {"kind": "harmful"} if name in ("hh-rlhf", "jailbreakbench") else {}
    expected = EXPECTED[name][:1] if both or name == "hex-phi" else EXPECTED[name]
    assert found(set=name, path=str(hub / files[name]), **both) == expected


def test_a_file_on_the_web_is_fetched_once(hub, monkeypatch):
    assert found(path="xstest") == EXPECTED["xstest"]
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("fetched again"))
    assert found(path="xstest") == EXPECTED["xstest"]


def test_a_file_that_cannot_be_fetched_leaves_nothing_behind(hub, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(UserError, match=r"xstest: cannot be fetched \(.*no route"):
        found(path="xstest")
    assert not list((tmp_path / "ours/prompt-sets").iterdir())


def test_kind_selects_and_limit_applies_per_kind(hub):
    assert [i for i, *_ in found(path="xstest", kind="harmless")] == ["xstest-1", "xstest-3"]
    assert [i for i, *_ in found(path="xstest", limit=1)] == ["xstest-1", "xstest-2"]
    assert [k for *_, k in found(path="jailbreakbench", kind="harmless")] == ["harmless"]
    with pytest.raises(UserError, match="advbench: no harmless prompts"):
        found(path="advbench", kind="harmless")


def test_a_copy_of_the_gated_set_may_be_json_lines(tmp_path):
    path = write_jsonl(tmp_path / "hex.jsonl", [{"prompt": "First"}, {"prompt": "Second"}])
    assert [p for _, p, _ in found(set="hex-phi", path=str(path))] == ["First", "Second"]


def test_the_error_for_a_gated_set_explains_how_to_get_access(monkeypatch):
    def refuse(*_, **__):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'X' is a gated dataset on the Hub. Log in.\nMore.")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError) as error:
        found(path="hex-phi")
    text = str(error.value)
    assert "\n" not in text and "gated dataset on the Hub" in text
    assert "hf auth login" in text and "https://huggingface.co/datasets/LLM-Tuning-Safety/HEx-PHI" in text
    assert "{set: hex-phi, path: FILE}" in text and "'prompt'" in text
    with pytest.raises(UserError) as error:
        found(path="do-not-answer")
    assert "hf auth login" not in str(error.value) and "{set: do-not-answer, path: FILE}" in str(error.value)


def test_without_network_the_error_is_one_line():
    with pytest.raises(UserError, match=r"do-not-answer: cannot be fetched \(.*give a copy"):
        found(path="do-not-answer")


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("xstest", [{"prompt": "x"}], "xstest: a row has None in the column 'label'"),
        ("xstest", [{"question": "x", "label": "safe"}], "no column 'prompt'; columns found: question, label"),
        ("jailbreakbench", [{"Goal": "x"}], "jailbreakbench: .* set kind of the file"),
        ("slimorca", [{"conversations": "none"}], "all 1 are empty"),
    ],
)
def test_a_copy_in_other_columns_is_named(tmp_path, name, rows, message):
    path = write_jsonl(tmp_path / "copy.jsonl", rows)
    with pytest.raises(UserError, match=message):
        found(set=name, path=str(path))
