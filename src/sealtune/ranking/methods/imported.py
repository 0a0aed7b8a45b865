"""Imported: scores made elsewhere, read from a file with ``id`` and ``score``, take the place of a ranking.

They come in as a ranker, not by a way of their own into the selection: whatever follows reads rank/scores.parquet and
asks the ranker what it can do, so that selection, report, comparison and ``sealtune score`` need no special case.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sealtune.core.config import DatasetConfig, RankConfig
from sealtune.core.errors import UserError
from sealtune.core.string_array import FloatArray, StringArray
from sealtune.core.types import Scores
from sealtune.data.reasons import plural
from sealtune.data.sources import read_rows
from sealtune.ranking.job import Amounts, Cost, Job, Ranker


def rank(job: Job) -> Scores:
    """The scores of the file ``rank.scores``, higher = keep.

    Raises:
        UserError: an id is missing, unknown or given twice, or a score is no finite number: one line for each of these.
    """
    rows, path = job.candidates, job.config.rank.scores
    if path is None:
        raise UserError("rank.scores: names no file; rank.method=imported reads the scores from one (id, score)")
    ids, values = read_scores(path)
    given = StringArray.of(rows.ids)
    problems = list(_problems(path, ids, values, given, StringArray.of(job.unusable)))
    if problems:
        raise UserError(*problems)
    return Scores.unweighted(rows.ids, rows.source, values[ids.index_in(given)])


def read_scores(path: str) -> tuple[StringArray, FloatArray]:
    """The ids and scores of a file, in its order; NaN where a score is no number.

    Raises:
        UserError: the file cannot be read, or a row lacks a column.
    """
    values = array("d")

    def ids() -> Iterator[str]:
        for where, row in read_rows(DatasetConfig(path=path)):
            row_id, score = _fields(where, row)
            values.append(score)
            yield row_id

    found = StringArray.of(ids())
    return found, np.array(values, np.float64)


def cost(settings: RankConfig, amounts: Amounts) -> Cost:
    """No model."""
    return Cost()


def _fields(where: str, row: Mapping[str, Any]) -> tuple[str, float]:
    for column in ("id", "score"):
        if column not in row:
            raise UserError(f"{where}: no column {column!r}; a file of scores has the columns id and score")
    try:
        score = float(row["score"])
    except (TypeError, ValueError):
        score = float("nan")
    return str(row["id"]), score


def _problems(
    path: str, ids: StringArray, values: FloatArray, rows: StringArray, unusable: StringArray
) -> Iterator[str]:
    """What keeps the scores from being used, one line per kind. Scores of rows that cannot be used are not needed."""
    _, first = np.unique(ids.dictionary_encode()[1], return_index=True)
    repeated = ids.take(np.setdiff1d(np.arange(len(ids)), first))
    if repeated:
        again = plural(len(repeated), "id")
        yield f"{path}: {again} given more than once, for example {repeated[0]}; keep one score of each"
    if bad := ids.take(np.flatnonzero(~np.isfinite(values))):
        yield f"{path}: {plural(len(bad), 'score')} not a finite number, for example that of id {bad[0]}; correct them"
    if missing := rows.take(np.flatnonzero(~rows.isin(ids))):
        yield (
            f"{path}: {len(missing):,} of {plural(len(rows), 'row')} without a score, for example id {missing[0]}; "
            "score all rows; a row without a column id has the id that rank/scores.parquet of any ranking gives it"
        )
    if unknown := ids.take(np.flatnonzero(~(ids.isin(rows) | ids.isin(unusable)))):
        yield f"{path}: {plural(len(unknown), 'id')} of no row of the data, for example {unknown[0]}; remove them"


RANKER = Ranker(rank, cost, needs_safe_set=False)
