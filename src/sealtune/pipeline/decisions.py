"""Decisions of people in a run: read and checked for a stage, written down with what they changed, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sealtune.core.errors import UserError
from sealtune.core.files import hash_file
from sealtune.core.string_array import StringArray
from sealtune.core.types import Decision, Scores, Selection
from sealtune.data.decisions import read_decisions
from sealtune.data.sources import expand

if TYPE_CHECKING:
    from sealtune.pipeline.folder import RunFolder
    from sealtune.pipeline.inputs import TokenizedRows

FILE = "select/decisions.jsonl"


def load_decisions(path: str | None, candidates: TokenizedRows) -> dict[str, Decision]:
    """The decision about each row, by id; none without a file. Raises UserError that names a bad line."""
    return {} if path is None else read_decisions(path, candidates.encoded.ids, candidates.drops)


def fingerprint(path: str | None) -> dict[str, str]:
    """The hash of the file, as an input of a stage; nothing without one. Raises UserError if it is missing.

    Its name does not count, and a stage without decisions has the inputs that it had before there were any.
    """
    if path is None:
        return {}
    place = expand(path)
    if not place.is_file():
        raise UserError(f"{path}: no such file of decisions; correct the path, or set decisions=null")
    return {"decisions": hash_file(place)}


def outcomes(scores: Scores, selection: Selection, decisions: Mapping[str, Decision]) -> Iterator[dict[str, Any]]:
    """Every decision with the row's score, what became of the row, and whether its score alone says otherwise."""
    ids = StringArray.of(decisions)
    score = scores.score[StringArray.of(scores.ids).index_in(ids)]
    kept = ids.isin(selection.kept)
    overruled = kept != (score >= selection.threshold)
    for i, made in enumerate(decisions.values()):
        yield {**asdict(made), "score": float(score[i]), "kept": bool(kept[i]), "overruled": bool(overruled[i])}


def read_outcomes(folder: RunFolder) -> dict[str, Decision]:
    """The decisions that the selection obeyed, by id. Raises UserError if the file is invalid."""
    return {made.id: made for made in folder.read_records(FILE, Decision)}


def count(folder: RunFolder) -> dict[str, int] | None:
    """How many rows people kept, dropped and were unsure about, and in how many they overruled the score; None if
    they decided about no row.
    """
    rows = folder.read_jsonl(FILE)
    if not rows:
        return None
    verbs = Counter(row.get("decision") for row in rows)
    overruled = sum(bool(row.get("overruled")) for row in rows)
    return {"kept": verbs["keep"], "dropped": verbs["drop"], "unsure": verbs["unsure"], "overruled": overruled}
