import numpy as np
import pytest

from sealtune.core.string_array import StringArray

WORDS = ["b", "a", "\u00e9", "", "\U0001f600", "\uffff", "a\nb"]


@pytest.fixture(params=["plain", "coded"])
def texts(request):
    if request.param == "plain":
        return StringArray.of(WORDS)
    return StringArray.from_codes(np.arange(len(WORDS), dtype=np.int32)[::-1].copy(), WORDS[::-1])


def test_texts_are_a_sequence_like_a_list(texts):
    assert texts == WORDS
    assert tuple(WORDS) == texts
    assert texts != WORDS[1:]
    assert (texts[0], texts[-1], texts[np.int64(2)]) == ("b", "a\nb", "\u00e9")
    assert texts[1:3] == WORDS[1:3]
    assert "a" in texts
    assert "c" not in texts
    assert texts.take([2, 0, 0]) == ["\u00e9", "b", "b"]
    assert texts + texts[:1] == [*WORDS, "b"]
    with pytest.raises(IndexError):
        texts[len(WORDS)]


def test_texts_sort_as_python_sorts_strings(texts):
    assert texts.take(texts.argsort()) == sorted(WORDS)
    assert StringArray.of(["b", "a", "b"]).argsort().tolist() == [1, 0, 2]


def test_texts_are_found_by_what_they_say(texts):
    assert texts.index_in(["a", "nowhere", "b"]).tolist() == [1, -1, 0]
    assert texts.isin({"a", "x"}).tolist() == [word == "a" for word in WORDS]
    assert not StringArray.of([]).isin(["a"]).size
    assert not texts.isin([]).any()


def test_distinct_texts_are_counted_in_the_order_seen():
    names, codes = StringArray.of(["x", "y", "x"]).dictionary_encode()
    assert [names[code] for code in codes] == ["x", "y", "x"]
