"""Reading and validating configs, including broken and hostile ones."""

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealtune.core.config_io import MAX_CHARACTERS, InvalidYamlError, apply_overrides, build_config, parse, read_yaml
from sealtune.core.errors import UserError

LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("{a: " * 3000, "nested too deeply"),
        ("".join(" " * i + "a:\n" for i in range(200)), "nested too deeply"),
        (LAUGHS, "grow without end"),
        (MERGES, "grow without end"),
        ("&a [*a]", "grow without end"),
        ("&a {<<: *a}", "grow without end"),
        ("a: " + "9" * 5000, "cannot be read"),
        ("a: 2020-99-99", "cannot be read"),
        ("a: !!int x", "cannot be read"),
        ("a: !!bool x", "cannot be read"),
        ("a: !!timestamp x", "cannot be read"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: \x1b", "special characters are not allowed"),
        ("x" * (MAX_CHARACTERS + 1), "more than"),
    ],
)
def test_invalid_yaml_is_refused_quickly(text, problem):
    since = time.monotonic()
    with pytest.raises(InvalidYamlError, match=problem):
        parse(text)
    assert time.monotonic() - since < 5


def test_ordinary_anchors_and_merges_work():
    assert parse("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]")["b"] == {"x": 1, "y": 2}


PIECES = [
    *("model_name_or_path: m\n", "seed: 1\n", "rank: {", "}", "[", "&a ", "*a", "!!int ", "? ", "- ", ": ", "\n"),
    *("'", "\0", "9" * 4400, "1e999999", ".inf", ".nan", "\u202e", "\ud800", "\x1b[2J", "1:99:99", "2020-99-99"),
    *("|", "<<", "datasets: ", "evaluate: ", "judges: "),
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6), st.binary(max_size=6)), max_size=12))
def test_random_configs_are_read_or_refused_in_a_few_short_lines(tmp_path, pieces):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"".join(p if isinstance(p, bytes) else p.encode("utf-8", "surrogatepass") for p in pieces))
    try:
        build_config(read_yaml(path), str(path)).model_dump_json()
    except UserError as error:
        lines = str(error).split("\n")
        assert all("x.yaml" in line and line.isprintable() for line in lines) and len(lines) <= 12


@given(st.text(), st.text())
def test_random_overrides_are_applied_or_refused(key, value):
    try:
        build_config({"model_name_or_path": "m"} | apply_overrides({}, [f"{key}={value}"]))
    except UserError as error:
        assert len(str(error)) < 15_000


@pytest.mark.parametrize("value", ["a\0b", "\ud800"])
def test_impossible_file_names_are_refused(value):
    for values in ({"output_dir": value}, {"datasets": [value]}, {"model_name_or_path": value}):
        with pytest.raises(UserError, match="NUL or a lone surrogate"):
            build_config({"model_name_or_path": "m"} | values)


def test_only_the_first_of_thousands_of_errors_are_printed():
    since = time.monotonic()
    with pytest.raises(UserError, match=r"and 50,0\d\d more") as caught:
        build_config({f"k{i}": 1 for i in range(50_019)})
    assert time.monotonic() - since < 5 and len(str(caught.value).split("\n")) < 15


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("compare.sedes", "seeds"),
        ("compare.safty_datasets", "safety_datasets"),
        ("rank.learning_rat", "learning_rate"),
        ("select.keep_ration", "keep_ratio"),
        ("report.rows_shwon", "rows_shown"),
        ("modle_name_or_path", "model_name_or_path"),
    ],
)
def test_an_unknown_key_of_any_block_suggests_the_closest_one(path, known):
    with pytest.raises(UserError, match=rf"x\.yaml: unknown key '{path}'; did you mean '{known}'"):
        build_config(apply_overrides({"model_name_or_path": "m"}, [f"{path}=1"]), "x.yaml")


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: [1", r"x\.yaml, line \d+: not valid YAML"),
        ("- 1", "a config is a mapping"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
    ],
)
def test_an_error_names_the_file_and_the_line(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_yaml(tmp_path / "x.yaml")


def test_overrides_are_yaml_and_reach_into_blocks():
    values = apply_overrides({"rank": {"method": "loss"}}, ["rank.gamma=0.1", "datasets=[a.jsonl]", "max_length=64"])
    config = build_config({"model_name_or_path": "m", **values})
    assert (config.rank.method, config.rank.gamma, config.max_length) == ("loss", 0.1, 64)
    assert config.datasets[0].path == "a.jsonl"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_config_is_read_as_an_editor_saves_it(tmp_path, encoding):
    text = "model_name_or_path: m\r\n# café\r\nmax_length: 64\r\n"
    mark = "\ufeff" if encoding.endswith(("-le", "-be")) else ""
    (tmp_path / "x.yaml").write_bytes((mark + text).encode(encoding))
    assert read_yaml(tmp_path / "x.yaml") == {"model_name_or_path": "m", "max_length": 64}


@pytest.mark.parametrize("content", ["seed: é".encode("latin-1"), "seed: 1".encode("utf-16")[:-1]])
def test_a_config_in_another_encoding_is_one_line(tmp_path, content):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.yaml: not UTF-(8|16) text; save the file as UTF-8"):
        read_yaml(tmp_path / "x.yaml")


def test_a_home_in_the_path_of_a_config_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.yaml").write_text("seed: 1")
    assert read_yaml(Path("~/x.yaml")) == {"seed": 1}
