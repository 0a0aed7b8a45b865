"""Configs that are broken, or made to harm."""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealtune.core.config_io import LARGEST, NotPlainError, apply_overrides, build_config, parse, read_yaml
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
        ("x" * (LARGEST + 1), "more than"),
    ],
)
def test_what_cannot_be_a_config_is_told_at_once(text, problem):
    since = time.monotonic()
    with pytest.raises(NotPlainError, match=problem):
        parse(text)
    assert time.monotonic() - since < 5


def test_anchors_of_honest_configs_still_work():
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
def test_random_overrides_are_taken_or_refused(key, value):
    try:
        build_config({"model_name_or_path": "m"} | apply_overrides({}, [f"{key}={value}"]))
    except UserError as error:
        assert len(str(error)) < 15_000


@pytest.mark.parametrize("value", ["a\0b", "\ud800"])
def test_names_that_no_file_can_have_are_refused(value):
    for values in ({"output_dir": value}, {"datasets": [value]}, {"model_name_or_path": value}):
        with pytest.raises(UserError, match="NUL or half of a surrogate pair"):
            build_config({"model_name_or_path": "m"} | values)


def test_thousands_of_faults_are_told_in_a_few_lines_and_at_once():
    since = time.monotonic()
    with pytest.raises(UserError, match=r"and 50,0\d\d more") as told:
        build_config({f"k{i}": 1 for i in range(50_019)})
    assert time.monotonic() - since < 5 and len(str(told.value).split("\n")) < 15
