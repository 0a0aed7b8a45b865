import base64
import gzip
import json

from sealtune.report.html import (
    embed_compressed,
    embed_json,
    format_fact,
    format_measure,
    format_number,
    format_percent,
    one_line,
    reveal,
)


def test_invisible_characters_are_shown_as_code_points():
    assert reveal("a<b\u200b\ud800\r\n\tc") == (
        'a&lt;b<span class="hidden-char" title="invisible character">U+200B</span>'
        '<span class="hidden-char" title="invisible character">U+D800</span>\n\tc'
    )


def test_labels_of_figures_are_short_and_hide_nothing():
    label = one_line("a\u202e\n" + "y" * 80, limit=30)
    assert label.startswith("aU+202E y") and label.endswith("y…") and len(label) == 30


def test_compressed_json_is_the_json_again():
    text = str(embed_compressed({"a": ["</script>\u202e\ud800", float("nan")]}))
    assert not set("<>&\u202e") & set(text)
    assert json.loads(gzip.decompress(base64.b64decode(text))) == {"a": ["</script>\u202e\ud800", None]}


def test_embedded_json_cannot_close_its_script():
    assert embed_json({"a": [float("nan"), "</script>&"]}) == '{"a":[null,"\\u003c/script\\u003e\\u0026"]}'


def test_numbers():
    assert format_number(1234567) == "1,234,567" and format_number(float("nan")) == format_number(None) == "\u2013"
    assert format_percent(0.125) == "12.5%" and format_percent(1) == "100.0%" and format_percent(None) == "\u2013"
    assert format_measure(0.5, "share") == "50.0%" and format_measure(2.5, "rating") == "2.500"


def test_facts_are_shown_in_the_unit_of_their_name():
    assert format_fact("seconds", 3725) == "1 h 2 min" and format_fact("seconds", 59.0) == "59.0 s"
    assert format_fact("peak_memory_bytes", 2**30) == "1.00 GiB"
    assert format_fact("seed", 12345) == "12345" and format_fact("rows", 12345) == "12,345"
