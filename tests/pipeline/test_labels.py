import pytest

from sealtune.core.errors import UserError
from sealtune.pipeline.labels import read_label


@pytest.mark.parametrize("value", [1, True, 1.0, "1", "1.0", "true", "YES", " unsafe ", "Harmful"])
def test_usual_spellings_of_unsafe(value):
    assert read_label({"unsafe": value}, "unsafe", "a", None) == 1


@pytest.mark.parametrize("value", [0, False, 0.0, "0", "no", "Safe", "benign"])
def test_usual_spellings_of_safe(value):
    assert read_label({"unsafe": value}, "unsafe", "a", None) == 0


@pytest.mark.parametrize("value", [0.93, "0.07", 0.5])
def test_a_probability_is_never_rounded(value):
    with pytest.raises(UserError, match=r"row a has .* in 'unsafe', a probability; .*label_threshold=0.5"):
        read_label({"unsafe": value}, "unsafe", "a", None)
    assert read_label({"unsafe": value}, "unsafe", "a", 0.5) == int(float(value) >= 0.5)


@pytest.mark.parametrize("value", [None, 2, -1, "maybe", [], float("nan"), "1.5"])
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_anything_else_is_one_line(value, threshold):
    with pytest.raises(UserError, match=r"row a has .*; 0 \(safe\) or 1 \(unsafe\) is needed"):
        read_label({"unsafe": value}, "unsafe", "a", threshold)


def test_a_missing_column_is_named():
    with pytest.raises(UserError, match="row a has no column 'unsafe'; columns: x, y"):
        read_label({"x": 1, "y": 2}, "unsafe", "a", None)
