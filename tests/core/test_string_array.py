import numpy as np
import pytest

from sealtune.core.string_array import StringArray

WORDS = ["b", "a", "\u00e9", "", "\U0001f600", "\uffff", "a\nb"]


@pytest.fixture(params=["plain", "coded"])
def strings(request):
    if request.param == "plain":
        return StringArray.of(WORDS)
    return StringArray.from_codes(np.arange(len(WORDS), dtype=np.int32)[::-1].copy(), WORDS[::-1])


def test_a_string_array_is_a_sequence_like_a_list(strings):
    assert strings == WORDS
    assert tuple(WORDS) == strings
    assert strings != WORDS[1:]
    assert (strings[0], strings[-1], strings[np.int64(2)]) == ("b", "a\nb", "\u00e9")
    assert strings[1:3] == WORDS[1:3]
    assert "a" in strings
    assert "c" not in strings
    assert strings.take([2, 0, 0]) == ["\u00e9", "b", "b"]
    assert strings + strings[:1] == [*WORDS, "b"]
    with pytest.raises(IndexError):
        strings[len(WORDS)]


def test_argsort_orders_like_python(strings):
    assert strings.take(strings.argsort()) == sorted(WORDS)
    assert StringArray.of(["b", "a", "b"]).argsort().tolist() == [1, 0, 2]


def test_strings_are_found_by_value(strings):
    assert strings.index_in(["a", "nowhere", "b"]).tolist() == [1, -1, 0]
    assert strings.isin({"a", "x"}).tolist() == [word == "a" for word in WORDS]
    assert not StringArray.of([]).isin(["a"]).size
    assert not strings.isin([]).any()


def test_dictionary_encode_keeps_the_order_of_first_occurrence():
    names, codes = StringArray.of(["x", "y", "x"]).dictionary_encode()
    assert [names[code] for code in codes] == ["x", "y", "x"]
