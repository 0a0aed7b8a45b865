import json

import pytest

from sealtune.config import PromptsConfig
from sealtune.evaluation.prompts import load_prompts
from sealtune.records import Prompt, UserError


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_ids_are_a_rows_own_or_counted_and_always_unique(tmp_path):
    first = write(
        tmp_path / "asks.jsonl", [{"id": "a", "prompt": "One?"}, {"prompt": "Two?"}, {"id": "a", "prompt": "3"}]
    )
    second = write(tmp_path / "more.jsonl", [{"id": "a", "prompt": "Four?"}, {"id": 0, "prompt": "Five?"}])
    prompts = load_prompts(
        [PromptsConfig(path=first, kind="harmful"), PromptsConfig(path=second, kind="harmless", name="kind ones")]
    )
    assert [p.id for p in prompts] == ["a", "asks-2", "a-2", "a-3", "0"]
    assert prompts[0] == Prompt("a", "One?", "asks", "harmful")
    assert prompts[4] == Prompt("0", "Five?", "kind ones", "harmless")


def test_column_and_limit(tmp_path):
    path = write(tmp_path / "q.jsonl", [{"question": f"q{i}"} for i in range(5)])
    prompts = load_prompts([PromptsConfig(path=path, kind="harmless", column="question", limit=2)])
    assert [(p.id, p.prompt) for p in prompts] == [("q-1", "q0"), ("q-2", "q1")]


def test_csv(tmp_path):
    path = tmp_path / "asks.csv"
    path.write_text('prompt,topic\n"Why, then?",a\nHow?,b\n', encoding="utf-8")
    prompts = load_prompts([PromptsConfig(path=str(path), kind="harmful")])
    assert [p.prompt for p in prompts] == ["Why, then?", "How?"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "x"}, {"question": "y", "topic": "z"}], r"2.*no column 'prompt'.*question, topic"),
        ([{"prompt": "x"}, {"prompt": "  "}], r"2.*is empty"),
        ([{"prompt": None}], r"1.*is empty"),
        ([{"prompt": ["x"]}], r"1.*is a list"),
        ([], r"asks\.jsonl"),
    ],
)
def test_faults_are_named(tmp_path, rows, message):
    path = write(tmp_path / "asks.jsonl", rows)
    with pytest.raises(UserError, match=message):
        load_prompts([PromptsConfig(path=path, kind="harmful")])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load_prompts([PromptsConfig(path=str(tmp_path / "nowhere.jsonl"), kind="harmful")])
