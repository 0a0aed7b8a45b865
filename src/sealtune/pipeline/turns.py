"""What a run stores about single answers, with ``select.granularity=turn``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sealtune.core.errors import UserError
from sealtune.core.string_array import StringArray
from sealtune.core.types import Sample, Scores
from sealtune.data.turn_rows import TurnRows, marked_row
from sealtune.pipeline.folder import RunFolder
from sealtune.ranking.turns import TurnScores

SCORES = "rank/turns.parquet"
MASKED = "select/masked_turns.jsonl"


def write_scores(folder: RunFolder, turns: TurnRows, scores: Scores) -> None:
    """Write SCORES: the id of the conversation, the number of the answer, its score, and the logit of its probe."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    logit = np.full(len(scores), np.nan) if scores.probe_logit is None else scores.probe_logit
    columns = {"id": turns.conversation_ids.decoded(), "turn": turns.number}
    with folder.atomic_file(SCORES) as scratch:
        pq.write_table(pa.table({**columns, "score": scores.score, "probe_logit": logit}), scratch)


def read_scores(folder: RunFolder) -> TurnScores:
    """Read SCORES. Raises UserError if the run ranked whole rows, or the file is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder.path(SCORES)
    if SCORES not in folder.outputs_of("rank"):
        raise UserError(
            "select.granularity: turn: whole rows were ranked here; rank again with select.granularity=turn"
        )
    try:
        table = pq.read_table(path, columns=["id", "turn", "score", "probe_logit"])
        ids = StringArray.from_column(table["id"])
        number, score, logit = (table[name].to_numpy() for name in ("turn", "score", "probe_logit"))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a file of scores ({error}); rank again") from None
    known = None if np.isnan(logit).all() else logit
    found = Scores.unweighted(ids, StringArray.of([""] * len(ids)), score, probe_logit=known)
    return TurnScores(replace(found, selector=folder.read_selector(["safe_probe_logit"])), number.astype(np.int64))


def row_with_marks(sample: Sample, masked: Mapping[str, list[int]], answers: Mapping[str, int]) -> Mapping[str, Any]:
    """The row as it is written to kept.jsonl.

    Args:
        sample: The row.
        masked: Numbers of the masked answers by id.
        answers: How many answers were scored by id.

    Raises:
        UserError: The row has another number of answers than were scored.
    """
    if sample.id not in masked:
        return sample.row
    learned = sum(turn.is_learned for turn in sample.messages)
    if learned != answers[sample.id]:
        raise UserError(
            f"select.granularity=turn: {sample.id} has {learned} answers, {answers[sample.id]} of them told apart by "
            "the template; use select.granularity=row"
        )
    return marked_row(sample, masked[sample.id])


def write_masked(folder: RunFolder, masked: Mapping[str, list[int]]) -> None:
    """Write MASKED: the numbers of the masked answers of each kept row that has some."""
    folder.write_jsonl(MASKED, ({"id": row_id, "turns": numbers} for row_id, numbers in masked.items()))


def read_masked(folder: RunFolder) -> dict[str, list[int]]:
    """Read MASKED; empty if whole rows were selected. Raises UserError if it is damaged."""
    if not folder.manifest().has_output("select", MASKED):
        return {}
    found = {}
    for record in folder.iter_jsonl(MASKED):
        row_id, numbers = record.get("id"), record.get("turns")
        if not isinstance(row_id, str) or not isinstance(numbers, list) or not all(isinstance(n, int) for n in numbers):
            raise UserError(f"{folder.path(MASKED)}: not a list of masked turns; select again")
        found[row_id] = numbers
    return found
