"""Decisions of people about rows: a JSONL file, one object per line; of several about one row the last one counts.

{"id": "r17", "decision": "drop", "by": "Ann", "at": "2026-11-27T18:00:00+00:00", "note": "names a victim"}
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, get_args

from sealtune.core.errors import UserError, did_you_mean
from sealtune.core.sanitize import is_valid_utf8
from sealtune.core.string_array import StringArray
from sealtune.core.types import Decision, Drop, Verb
from sealtune.data.sources import expand

CHOICES: tuple[Verb, ...] = get_args(Verb)


def read_decisions(path: str, ids: Iterable[str], unusable: Collection[Drop] = ()) -> dict[str, Decision]:
    """The decisions of a file, see ``parse_decisions``. Raises UserError also if the file cannot be read."""
    try:
        with expand(path).open("rb") as file:
            return parse_decisions(file, path, ids, unusable)
    except OSError as error:
        raise UserError(f"{path}: the decisions cannot be read ({error.strerror})") from None


def parse_decisions(
    lines: Iterable[bytes], name: str, ids: Iterable[str], unusable: Collection[Drop] = ()
) -> dict[str, Decision]:
    """The decision about each row.

    Args:
        lines: Those of a file.
        name: Its name, for errors.
        ids: Those of the candidates.
        unusable: Candidates that cannot be used, and so cannot be kept; to drop them is granted, and left out here.

    Raises:
        UserError: a line is no decision, or is about a row that there is not.
    """
    found = {made.id: (number, made) for number, made in _decisions(lines, name)}
    missing = StringArray.of(found).take((StringArray.of(ids).index_in(found) < 0).nonzero()[0])
    reasons = {drop.id: f"{drop.reason}: {drop.detail}" for drop in unusable} if len(missing) else {}
    for row_id in missing:
        number, made = found.pop(row_id)
        if row_id not in reasons:
            raise UserError(f"{name}, line {number}: no candidate has the id {row_id!r}; remove the line or correct it")
        if made.decision == "keep":
            raise UserError(
                f"{name}, line {number}: row {row_id!r} cannot be kept, because it cannot be used "
                f"({reasons[row_id]}); remove the line or mend the row"
            )
    return {row_id: made for row_id, (_, made) in found.items()}


def _decisions(lines: Iterable[bytes], name: str) -> Iterator[tuple[int, Decision]]:
    """The decisions in order, with their line numbers."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, _parse(line, f"{name}, line {number}")


def _parse(line: bytes, where: str) -> Decision:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({error}); mend or remove the line") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: not a JSON object; write one decision per line, with id, decision, by and at")
    row_id = row.get("id")
    if not isinstance(row_id, str | int) or isinstance(row_id, bool) or not is_valid_utf8(str(row_id)):
        raise UserError(f"{where}: {_what(row, 'id')}; give the id of a candidate")
    for name in ("by", "at", "note"):
        if not isinstance(row.get(name, "" if name == "note" else None), str):
            raise UserError(f"{where}: {_what(row, name)}; text is needed")
    return Decision(str(row_id), _choice(row, where), row["by"], _time(row, where), row.get("note", ""))


def _choice(row: Mapping[str, Any], where: str) -> Verb:
    choice = row.get("decision")
    for known in CHOICES:
        if choice == known:
            return known
    hint = did_you_mean(choice, CHOICES) if isinstance(choice, str) else ""
    raise UserError(f"{where}: {_what(row, 'decision')}; {hint or 'known: ' + ', '.join(CHOICES)}")


def _time(row: Mapping[str, Any], where: str) -> str:
    try:
        datetime.fromisoformat(row["at"])
    except ValueError:
        raise UserError(f"{where}: {_what(row, 'at')}; write 2026-11-27T18:00:00+00:00, for example") from None
    return str(row["at"])


def _what(row: Mapping[str, Any], name: str) -> str:
    return f"unknown {name} {str(row[name])[:80]!r}" if name in row else f"no {name}"
