"""Rows that are not used are gone through in input order, whoever found them so."""

from helpers.rows import made_rows
from sealtune.core.config import DatasetConfig
from sealtune.core.string_array import StringArray
from sealtune.data.load import load
from sealtune.data.row_store import UntokenizedRows, UnusedRows


def test_rows_of_several_kinds_come_in_input_order():
    good, bad = [*made_rows(5, 1)], {"prompt": "red", "response": 7}
    rows = load([DatasetConfig(path="x", rows=[good[0], bad, good[1], good[2], bad, good[3], good[4]])])
    places = [1, 3]
    reasons, details = StringArray.of(["too_long", "empty_response"]), StringArray.of(["it is long", "there is none"])
    late = UntokenizedRows(rows.samples, rows.samples.ids.index_in([rows.samples.ids[i] for i in places]), reasons, details)
    found = UnusedRows(late, rows.drops)
    assert len(found) == 4
    assert [drop.position for drop in found] == [1, 2, 4, 5]
    assert [drop.reason for drop in late] == ["too_long", "empty_response"]
    assert [drop.id for drop in late] == [rows.samples.ids[i] for i in places]
    assert [*found] == [*found]  # each time anew
    assert next(iter(late)) in found
    assert not UnusedRows([], [])
