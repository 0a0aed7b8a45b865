import json

import pytest
from typer.testing import CliRunner

from sealtune.cli import main
from sealtune.cli.arguments import load_config, spread_values
from sealtune.core.errors import UserError


def test_short_flags_need_no_config_file(tmp_path):
    config = load_config([], model="m", data=["a", "b"], safe=["s"], out=str(tmp_path), keep=0.7)
    assert [d.path for d in config.datasets] == ["a", "b"]
    assert config.select.keep_ratio == 0.7


def test_keep_overrides_a_threshold_in_the_file(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("model_name_or_path: m\nselect: {threshold: 0.5}\n")
    assert load_config([str(path)]).select.threshold == 0.5
    assert load_config([str(path)], keep=0.7).select.threshold is None


def test_a_file_may_be_positional_or_an_option(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("model_name_or_path: m\nseed: 3\n")
    assert load_config([str(path), "seed=4"]).seed == 4
    assert load_config([], path).seed == 3
    with pytest.raises(UserError, match="one config"):
        load_config([str(path)], path)


def test_a_missing_config_and_invalid_words_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such config file"):
        load_config([str(tmp_path / "none.yaml")])
    with pytest.raises(UserError, match="key=value"):
        load_config(["nonsense"])
    with pytest.raises(UserError, match="no config"):
        load_config([])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rank --data a b --safe s t --out x", "rank --data a --data b --safe s --safe t --out x"),
        ("rank --data=a b", "rank --data=a --data b"),
        ("rank --data a b c.yaml seed=1 --safe s", "rank --data a --data b c.yaml seed=1 --safe s"),
        ("rank c.yaml --data a seed=1 rank.gamma=0", "rank c.yaml --data a seed=1 rank.gamma=0"),
        ("rank --data a --data b c", "rank --data a --data b --data c"),
        ("rank --out x seed=1", "rank --out x seed=1"),
        ("rank --data a -- b", "rank --data a -- b"),
    ],
)
def test_several_values_may_follow_one_option(line, expected):
    assert spread_values(line.split()) == expected.split()


def test_a_file_with_an_equals_sign_in_its_name_is_data(tmp_path):
    path = tmp_path / "year=2024.jsonl"
    path.write_text("{}")
    assert spread_values(["--data", "a", str(path)]) == ["--data", "a", "--data", str(path)]


def test_commands_take_several_files_and_words_after_them(monkeypatch):
    opened = []
    monkeypatch.setattr(
        main, "_open", lambda words, config, **flags: opened.append((words, flags["data"], flags["safe"]))
    )
    monkeypatch.setattr(main, "_run_stages", lambda *_, **__: None)
    monkeypatch.setattr(main, "_print_output", lambda *_, **__: None)
    line = "rank --data a.jsonl b.jsonl --safe s.jsonl x.yaml seed=1"
    assert CliRunner().invoke(main.app, line.split()).exit_code == 0
    assert opened == [(["x.yaml", "seed=1"], ["a.jsonl", "b.jsonl"], ["s.jsonl"])]


@pytest.fixture
def places(tmp_path):
    """A config file and a run folder with the same content: words and flags, and the name in messages of each."""
    values = {"model_name_or_path": "m", "rank": {"num_train_epochs": 30}}
    (tmp_path / "x.yaml").write_text(json.dumps(values))
    (tmp_path / "manifest.json").write_text(json.dumps({"config": values, "stages": {}}))
    return [([str(tmp_path / "x.yaml")], {}), ([], {"out": str(tmp_path)})]


@pytest.mark.parametrize(
    ("words", "flags", "message"),
    [
        ([], {"keep": 7.0}, "command line: select.keep_ratio: must be a share in (0, 1], or auto (got 7.0)"),
        (["seed=-1"], {}, "command line: seed: Input should be"),
        (["rank={method: [1]}"], {}, "command line: rank.method: Input should be"),
        (["datasets=[{pth: x}]"], {}, "command line: datasets.0.path is missing"),
        (["rank.methd=x"], {}, "command line: unknown key 'rank.methd'; did you mean 'method'?"),
        (["rank.gamma=0.5"], {}, "command line: rank: gamma * (num_train_epochs - 1) must stay below 1"),
        (["load_in_4bit=true", "tune.merge=true"], {}, "command line: load_in_4bit: an adapter cannot be merged"),
        (["report.title=sk-" + "a1B2c3D4" * 6], {}, "command line: contains a key"),
    ],
)
def test_a_value_of_the_command_line_is_blamed_on_it(places, words, flags, message):
    for before, more in places:
        with pytest.raises(UserError) as caught:
            load_config([*before, *words], **more, **flags)
        assert str(caught.value).startswith(message)


def test_a_value_of_the_file_is_blamed_on_the_file(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("model_name_or_path: m\nseed: -1\nrank: {gamma: 0.9}\n")
    with pytest.raises(UserError) as caught:
        load_config([str(path), "rank.method=loss"], keep=0.5)
    assert [line.partition(": ")[0] for line in str(caught.value).splitlines()] == [str(path)] * 2
