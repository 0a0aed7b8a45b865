from sealtune.core.config import DatasetConfig
from sealtune.data.duplicates import count_near_duplicates, count_near_shared, count_repeats, count_shared
from sealtune.data.load import load

TEXT = "The quick brown fox jumps over the lazy dog and then it sleeps in the warm sun until the evening comes."


def rows(*responses):
    return load([DatasetConfig(path="made", rows=[{"prompt": "Go on.", "response": r} for r in responses])]).samples


def test_duplicates_are_counted_exactly_and_nearly():
    samples = rows(TEXT, TEXT, TEXT.replace("evening", "night"), "Something else, which nobody has said before.")
    assert count_repeats(samples) == 1
    assert count_near_duplicates(samples) == 2


def test_rows_of_the_safe_set_are_found_among_the_candidates():
    candidates = rows("First.", TEXT, TEXT.replace("evening", "night"), "Last.")
    safe = rows(TEXT, "Other.")
    assert (count_shared(candidates, safe), count_near_shared(candidates, safe)) == (1, 2)
    assert (count_shared(safe, candidates), count_near_shared(safe, candidates)) == (1, 1)
    assert count_shared(candidates, rows("Neither.")) == count_near_shared(candidates, rows("Neither.")) == 0
