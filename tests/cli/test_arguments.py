import pytest

from sealtune.cli.arguments import load_config
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
