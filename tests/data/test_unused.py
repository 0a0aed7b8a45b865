"""Rows that are not used are gone through in input order, whoever found them so."""

from conftest import made_rows
from sealtune.config import DatasetConfig
from sealtune.data.door import load
from sealtune.data.unused import Unlearnable, Unused
from sealtune.texts import Texts


def test_rows_of_several_kinds_come_in_input_order():
    good, bad = [*made_rows(5, 1)], {"prompt": "red", "response": 7}
    rows = load([DatasetConfig(path="x", rows=[good[0], bad, good[1], good[2], bad, good[3], good[4]])])
    places = [1, 3]
    reasons, details = Texts.of(["too_long", "empty_response"]), Texts.of(["it is long", "there is none"])
    late = Unlearnable(rows.samples, rows.samples.ids.find([rows.samples.ids[i] for i in places]), reasons, details)
    found = Unused(late, rows.drops)
    assert len(found) == 4
    assert [drop.position for drop in found] == [1, 2, 4, 5]
    assert [drop.reason for drop in late] == ["too_long", "empty_response"]
    assert [drop.id for drop in late] == [rows.samples.ids[i] for i in places]
    assert [*found] == [*found]  # each time anew
    assert next(iter(late)) in found
    assert not Unused([], [])
