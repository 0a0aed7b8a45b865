import pytest

from sealtune.core.config import Config
from sealtune.core.config_io import apply_overrides, build_config
from sealtune.core.errors import UserError


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rank.gamma=1.5", "rank.gamma"),
        ("rank.algorithm=3", "rank.algorithm"),
        ("max_length=long", "max_length"),
        ("select.keep_ratio=0", "keep_ratio"),
        ("rank.gamma=0.5", "must stay below 1"),
    ],
)
def test_invalid_values_are_named(override, message):
    with pytest.raises(UserError, match=message):
        build_config(apply_overrides({"model_name_or_path": "m"}, [override]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [(["rank.use_peft=false"], "cannot be trained"), (["tune.merge=true"], "cannot be merged into 4-bit weights")],
)
def test_four_bit_weights_are_neither_trained_nor_merged(overrides, message):
    with pytest.raises(UserError, match=message):
        build_config(apply_overrides({"model_name_or_path": "m", "load_in_4bit": True}, overrides))


def test_bare_strings_stand_for_datasets_prompts_and_judges():
    evaluate = {"prompts": ["xstest", {"path": "p.jsonl", "kind": "harmful"}], "judges": ["refusal"]}
    config = build_config({"model_name_or_path": "m", "datasets": "a.jsonl", "evaluate": evaluate})
    assert [data.path for data in config.datasets] == ["a.jsonl"]
    assert [(prompts.set, prompts.path) for prompts in config.evaluate.prompts] == [("xstest", None), (None, "p.jsonl")]
    assert config.evaluate.judges[0].name == "refusal"


def test_the_ranking_config_names_the_ranking_model():
    config = build_config({"model_name_or_path": "big"})
    assert config.ranking is config
    proxy = build_config({"model_name_or_path": "big", "rank": {"model_name_or_path": "small"}})
    assert proxy.ranking.model_name_or_path == "small" and proxy.ranking.rank.model_name_or_path is None


def test_defaults_are_valid_and_the_schema_has_all_blocks():
    schema = Config.model_json_schema()
    assert {"rank", "select", "tune", "evaluate", "report", "compare", "datasets"} <= set(schema["properties"])
    assert build_config({"model_name_or_path": "m"}).trust_remote_code is False
