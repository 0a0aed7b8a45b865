"""CSV and TSV files as spreadsheets, databases and scripts write them."""

import csv
import io
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealtune.core.config import DatasetConfig
from sealtune.core.errors import UserError
from sealtune.data.sources import read_rows

ROWS = [{"prompt": "2 + 2?", "response": "4"}, {"prompt": 'Say "hi", please; now', "response": "a\tb\nc|d"}]


@pytest.fixture
def read(tmp_path, caplog):
    """A function from the content of a file to its rows and what is logged."""
    caplog.set_level(logging.INFO, "sealtune")

    def read_text(content, name="rows.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        caplog.clear()
        rows = [row for _, row in read_rows(DatasetConfig(path=str(path)))]
        return rows, [record.getMessage().removeprefix(f"{path}: ") for record in caplog.records]

    return read_text


def written(rows=ROWS, **options):
    file = io.StringIO()
    table = csv.DictWriter(file, list(rows[0]), **options)
    table.writeheader()
    table.writerows(rows)
    return file.getvalue()


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|", "^", "\x1f"])
def test_the_separator_is_found_and_named(read, separator, quoting, name):
    rows, log = read(written(delimiter=separator, quoting=quoting), name)
    assert rows == ROWS
    is_own = separator == {"rows.csv": ",", "rows.tsv": "\t"}[name]
    assert len(log) == (0 if is_own else 1) and all(line.startswith("separated by ") for line in log)


@pytest.mark.parametrize("first", ["sep=;\r\n", '"sep=;"\n', "SEP=;\n"])
def test_a_first_line_names_the_separator(read, first):
    assert read(first + written(delimiter=";")) == (ROWS, ["separated by semicolons"])
    assert read(f"{first}prompt\na, b\n")[0] == [{"prompt": "a, b"}]


def test_two_separators_that_fit_are_not_guessed(read):
    with pytest.raises(UserError, match="may be separated by semicolons or vertical bars; say which in a first line"):
        read("a;b|c\n1;2|3\n")
    with pytest.raises(UserError, match="line 1: the separator '%' is not known"):
        read("sep=%\na%b\n1%2\n")


def test_a_single_column_may_contain_separators_in_its_texts(read):
    assert read("prompt\na; b\nc; d\n") == ([{"prompt": "a; b"}, {"prompt": "c; d"}], [])


def test_a_header_that_does_not_fit_is_one_line(read):
    with pytest.raises(UserError, match=r"line 2: 2 fields, but the header has 1 \(separated by commas\)"):
        read("prompt response\na,b\n")


def test_blanks_behind_separators_are_left_out_and_names_have_none(read):
    expected = [{"prompt": "a, b", "response": "c"}], ["blanks behind separators are left out"]
    assert read('prompt, response\n"a, b", "c"\n') == expected
    assert read('prompt,response\n"a, b", "c"\n') == expected
    assert read("prompt , response \n a,b\n")[0] == [{"prompt": "a", "response": "b"}]
    assert read("prompt,response\na, b\n") == ([{"prompt": "a", "response": " b"}], [])


WILD = 'prompt\tresponse\n"Hello" means what?\tA greeting.\nSay 5" in words\tFive.\n"To be\tThe question.\nNot"\tBe\n'


def test_quotes_between_tabs_are_characters_if_they_enclose_nothing(read):
    rows, log = read(WILD, "rows.tsv")
    assert [row["prompt"] for row in rows] == ['"Hello" means what?', 'Say 5" in words', '"To be', 'Not"']
    assert log == ["quotes are characters and enclose nothing"]
    swallowed = 'a\tb\n"To be\tx\nor not"\ty\n'  # standard quoting would read one row
    assert [row["a"] for row in read(swallowed, "rows.tsv")[0]] == ['"To be', 'or not"']


def test_quotes_between_tabs_that_enclose_fields_are_removed(read):
    assert read('a\tb\n"x ""y"""\t"1\n2"\n', "rows.tsv") == ([{"a": 'x "y"', "b": "1\n2"}], [])


def test_quotes_escaped_by_a_backslash_are_read(read):
    rows, log = read('a,b\n"Say \\"hi\\", please","C:\\new\\\\"\n"x ""y""","\\""\n')
    assert rows == [{"a": 'Say "hi", please', "b": "C:\\new\\"}, {"a": 'x "y"', "b": '"'}]
    assert log == ['quotes within a field are written as \\"']


def test_a_backslash_before_the_end_of_a_standard_field_is_a_character(read):
    assert read('a,b\n"C:\\dir\\","x, y"\n') == ([{"a": "C:\\dir\\", "b": "x, y"}], [])


@pytest.mark.parametrize("content", ['a,b\n"x" y,2\n', 'a,b\n1,"2\n3,4\n', 'a;b\n"x" y;2\n'])
def test_quotes_that_fit_no_rule_are_one_line(read, content):
    with pytest.raises(UserError, match=r"not valid CSV .*fix the line; quotes must enclose a whole field"):
        read(content)


@pytest.mark.parametrize("content", ["a,b\n1\r2,3\n", "a\r,b\n1,2\n", 'sep=;\na;b\n1\r2;"3"\n'])
def test_a_line_break_within_a_field_without_quotes_is_one_line(read, content):
    with pytest.raises(
        UserError, match=r"rows\.csv, line \d: not valid CSV \(new-line character seen in unquoted field"
    ):
        read(content)


def test_line_breaks_of_an_old_macintosh_are_read(read):
    assert read("a,b\r1,2\r3,4\r")[0] == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


CELLS = st.text(st.sampled_from('ab ;,\t|"\n\\^'), max_size=6)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), separator=st.sampled_from(",;\t|"))
def test_what_python_writes_with_quotes_is_read_back(read, rows, separator):
    rows = [dict(zip(("prompt", "response"), row, strict=True)) for row in rows]
    assert read(written(rows, delimiter=separator, quoting=csv.QUOTE_ALL))[0] == rows
