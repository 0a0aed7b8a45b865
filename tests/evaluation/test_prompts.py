import json

import pytest

from helpers.chat_tokenizers import chatml_tokenizer
from sealtune.core.config import PromptsConfig
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.core.types import Prompt
from sealtune.evaluation.prompts import Prompts, fit, load_prompts, notices
from sealtune.pipeline.run import Run
from sealtune.pipeline.runner import check_run, run_stage


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def asked(*configs):
    return load_prompts(configs).asked


def test_ids_come_from_the_row_or_are_numbered_and_are_unique(tmp_path):
    first = write(
        tmp_path / "asks.jsonl", [{"id": "a", "prompt": "One?"}, {"prompt": "Two?"}, {"id": "a", "prompt": "3"}]
    )
    second = write(tmp_path / "more.jsonl", [{"id": "a", "prompt": "Four?"}, {"id": 0, "prompt": "Five?"}])
    prompts = asked(
        PromptsConfig(path=first, kind="harmful"), PromptsConfig(path=second, kind="harmless", name="kind ones")
    )
    assert [p.id for p in prompts] == ["a", "asks-2", "a-2", "a-3", "0"]
    assert prompts[0] == Prompt("a", "One?", "asks", "harmful")
    assert prompts[4] == Prompt("0", "Five?", "kind ones", "harmless")


def test_column_and_limit(tmp_path):
    path = write(tmp_path / "q.jsonl", [{"question": f"q{i}"} for i in range(5)])
    prompts = asked(PromptsConfig(path=path, kind="harmless", column="question", limit=2))
    assert [(p.id, p.prompt) for p in prompts] == [("q-1", "q0"), ("q-2", "q1")]


def test_csv(tmp_path):
    path = tmp_path / "asks.csv"
    path.write_text('prompt,topic\n"Why, then?",a\nHow?,b\n', encoding="utf-8")
    prompts = asked(PromptsConfig(path=str(path), kind="harmful"))
    assert [p.prompt for p in prompts] == ["Why, then?", "How?"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "x"}, {"question": "y", "topic": "z"}], r"2.*no column 'prompt'.*question, topic"),
        ([{"prompt": " "}, {"prompt": None}], r"all 2 are empty, the first: .*line 1"),
        ([{"prompt": ["x"]}], r"1.*is a list"),
        ([], r"asks\.jsonl"),
    ],
)
def test_errors_name_the_row(tmp_path, rows, message):
    path = write(tmp_path / "asks.jsonl", rows)
    with pytest.raises(UserError, match=message):
        load_prompts([PromptsConfig(path=path, kind="harmful")])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load_prompts([PromptsConfig(path=str(tmp_path / "nowhere.jsonl"), kind="harmful")])


def test_empty_prompts_are_dropped_and_counted(tmp_path):
    rows = [{"prompt": "red?"}, {"id": "b", "prompt": "  "}, {"prompt": None}, {"prompt": "blue?"}]
    path = write(tmp_path / "asks.jsonl", rows)
    found = load_prompts([PromptsConfig(path=path, kind="harmful", limit=2)])
    assert [p.id for p in found.asked] == ["asks-1", "asks-4"]
    assert [(d.id, d.reason) for d in found.drops] == [("b", "empty"), ("asks-3", "empty")]
    (line,) = notices(found.drops)
    assert line.startswith("prompts: asks: 2 dropped, empty (b, asks-3: ") and "line 2" in line


def test_a_prompt_of_a_hundred_thousand_characters_is_dropped_and_named(tmp_path):
    path = write(tmp_path / "asks.jsonl", [{"prompt": "red? " * 20_000}, {"prompt": "blue?"}])
    found = fit(load_prompts([PromptsConfig(path=path, kind="harmless")]), chatml_tokenizer(), 2048, 64)
    assert [p.id for p in found.asked] == ["asks-2"]
    (line,) = notices(found.drops)
    assert "asks-1" in line and "tokens; evaluate.max_prompt_length=" in line
    wide = int(line.split("max_prompt_length=")[1].split()[0])
    assert len(fit(load_prompts([PromptsConfig(path=path, kind="harmless")]), chatml_tokenizer(), wide, 64).asked) == 2
    with pytest.raises(UserError, match="all 2 are too long"):
        fit(load_prompts([PromptsConfig(path=path, kind="harmless")]), chatml_tokenizer(), 3, 64)


def test_prompts_must_fit_into_the_models_context(monkeypatch):
    monkeypatch.setattr(chatml_tokenizer(), "model_max_length", 80)
    prompts = [Prompt("a", "red " * 30, "s", "harmful"), Prompt("b", "red", "s", "harmful")]
    fits = fit(Prompts(prompts, []), chatml_tokenizer(), 2048, 40)
    assert [p.id for p in fits.asked] == ["b"]
    assert "more than the model's context" in fits.drops[0].detail
    assert len(fit(Prompts(prompts, []), chatml_tokenizer(), 2048, 10).asked) == 2


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"path": "x.jsonl"}, "kind is needed"),
        ({"path": "HarmBench"}, "did you mean 'harmbench'"),
        ({"set": "xtest"}, "no public set 'xtest'; did you mean 'xstest'"),
        ({"kind": "harmful"}, "path .* or set"),
        ({"path": "x.jsonl", "kind": "bad"}, "harmful"),
    ],
)
def test_an_incomplete_config_is_refused(prompts, message):
    with pytest.raises(UserError, match=message):
        build_config({"model_name_or_path": "m", "evaluate": {"prompts": [prompts]}})


def test_a_public_set_is_named_in_one_word():
    config = build_config({"model_name_or_path": "m", "evaluate": {"prompts": ["xstest", {"path": "advbench"}]}})
    assert [(c.set, c.path, c.kind) for c in config.evaluate.prompts] == [
        ("xstest", None, None),
        ("advbench", None, None),
    ]
    again = build_config(config.model_dump(mode="json"))
    assert again.evaluate.prompts == config.evaluate.prompts


def test_a_run_logs_and_stores_the_prompts_that_it_drops(project, tmp_path, capsys):
    write(tmp_path / "ask.jsonl", [{"prompt": "red?"}, {"prompt": ""}, {"prompt": "blue " * 5000}])
    project["rank"] = {"method": "random"}
    job = Run(build_config(project | {"evaluate": project["evaluate"] | {"base": False, "max_prompt_length": 512}}))
    check_run(job)
    for stage in ("rank", "select", "tune", "evaluate"):
        run_stage(job, stage)
    log = capsys.readouterr().err
    assert log.count("prompts: ask: 1 dropped, empty") == log.count("prompts: ask: 1 dropped, too_long") == 1
    drops = [json.loads(line) for line in (tmp_path / "out/evaluate/drops.jsonl").read_text().splitlines()]
    assert [(d["id"], d["reason"]) for d in drops][:2] == [("ask-2", "empty"), ("ok-2", "empty")]
    assert len((tmp_path / "out/evaluate/responses.jsonl").read_text().splitlines()) == 2


def test_a_lone_surrogate_is_refused(tmp_path):
    path = write(tmp_path / "asks.jsonl", [{"prompt": "fine"}, {"prompt": "\ud83d"}])
    with pytest.raises(UserError, match=r"line 2: the prompt in column 'prompt' contains a lone surrogate"):
        asked(PromptsConfig(path=path, kind="harmful"))
