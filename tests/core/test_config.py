import pytest

from sealtune.cli.arguments import load_config
from sealtune.core.config import Config
from sealtune.core.config_io import apply_overrides, build_config, read_yaml
from sealtune.core.errors import UserError


def test_unknown_keys_name_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"x\.yaml: unknown key 'rank\.learning_rat'; did you mean 'learning_rate'"):
        build_config({"model_name_or_path": "m", "rank": {"learning_rat": 1}}, "x.yaml")
    with pytest.raises(UserError, match="unknown key 'modle_name_or_path'; did you mean 'model_name_or_path'"):
        build_config({"model_name_or_path": "m", "modle_name_or_path": "n"})


@pytest.mark.parametrize(
    "override, message",
    [
        ("rank.gamma=1.5", "rank.gamma"),
        ("rank.algorithm=3", "rank.algorithm"),
        ("max_length=long", "max_length"),
        ("select.keep_ratio=0", "keep_ratio"),
        ("rank.gamma=0.5", "must stay below 1"),
    ],
)
def test_values_out_of_range_are_named(override, message):
    with pytest.raises(UserError, match=message):
        load_config(["model_name_or_path=m", override])


def test_overrides_are_yaml_and_reach_into_blocks():
    values = apply_overrides({"rank": {"method": "loss"}}, ["rank.gamma=0.1", "datasets=[a.jsonl]", "max_length=64"])
    config = build_config({"model_name_or_path": "m", **values})
    assert (config.rank.method, config.rank.gamma, config.max_length) == ("loss", 0.1, 64)
    assert config.datasets[0].path == "a.jsonl"


def test_short_flags_need_no_file(tmp_path):
    config = load_config([], model="m", data=["a", "b"], safe=["s"], out=str(tmp_path), keep=0.7)
    assert [d.path for d in config.datasets] == ["a", "b"]
    assert config.select.keep_ratio == 0.7


def test_a_file_may_be_positional_or_an_option(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("model_name_or_path: m\nseed: 3\n")
    assert load_config([str(path), "seed=4"]).seed == 4
    assert load_config([], path).seed == 3
    with pytest.raises(UserError, match="one config"):
        load_config([str(path)], path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: [1", r"x\.yaml, line \d+: not valid YAML"),
        ("- 1", "a config is a mapping"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
    ],
)
def test_broken_files_are_named(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_yaml(tmp_path / "x.yaml")


def test_missing_config_and_words_that_are_none(tmp_path):
    with pytest.raises(UserError, match="no such config file"):
        load_config([str(tmp_path / "none.yaml")])
    with pytest.raises(UserError, match="key=value"):
        load_config(["nonsense"])
    with pytest.raises(UserError, match="no config"):
        load_config([])


def test_every_default_is_valid_and_every_key_is_documented_in_the_schema():
    schema = Config.model_json_schema()
    assert {"rank", "select", "tune", "evaluate", "report", "datasets"} <= set(schema["properties"])
    assert build_config({"model_name_or_path": "m"}).trust_remote_code is False
