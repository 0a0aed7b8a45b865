"""Other runs whose evaluation is shown beside this one's (``report.beside``).

A figure is shown if this run has the same one, of the same number of prompts or rows. All words come from this run and
only numbers from the other file, which may come from somebody else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sealtune.core.config import Config
from sealtune.core.errors import UserError
from sealtune.core.files import hash_file, parse_json
from sealtune.core.sanitize import excerpt
from sealtune.data.reasons import plural
from sealtune.data.sources import expand

Row = Mapping[str, Any]
Key = tuple[str, str, str, str]
"""Measure, kind, set and judge."""

FILE = "results.json"
START_TOLERANCE = 0.01
"""Difference of the start models' discriminations, or losses in nats, that other hardware can explain."""


class OtherRun(NamedTuple):
    """The evaluation of another run.

    Attributes:
        name: Its name in tables.
        source: The path of its results, as it is configured.
        model: Its start model; empty if the file does not say.
        tuned: The figures of its tuned model.
        start: Those of its start model.
    """

    name: str
    source: str
    model: str
    tuned: Mapping[Key, Row]
    start: Mapping[Key, Row]


def check(config: Config) -> None:
    """Raise UserError if a run that is to be shown beside this one is missing or has no evaluation."""
    for name, path in config.report.beside.items():
        _read(config, name, path)


def fingerprints(config: Config) -> dict[str, str]:
    """Hashes of the results by name. Raises UserError."""
    return {name: hash_file(_file(config, name, path)) for name, path in config.report.beside.items()}


def beside(config: Config, evaluation: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per other run: name, source, its rows for the evaluation table, and notes on what is not comparable.

    Args:
        config: The config of this run.
        evaluation: The evaluation table of this run.

    Raises:
        UserError: A file is missing or has no evaluation.
    """
    own = {model: _rows_of(evaluation, model) for model in ("base", "tuned")}
    return [
        _describe(_read(config, name, path), own, config.model_name_or_path)
        for name, path in config.report.beside.items()
    ]


# -- reading ---------------------------------------------------------------------------------------------------------


def _read(config: Config, name: str, path: str) -> OtherRun:
    file = _file(config, name, path)
    try:
        content = parse_json(file.read_bytes(), f"report.beside: {name}: {file}")
    except OSError as error:
        raise UserError(f"report.beside: {name}: {file} cannot be read ({error.strerror})") from None
    found = content if isinstance(content, dict) else {}
    tuned, start = (_rows_of(found.get("evaluation"), model) for model in ("tuned", "base"))
    if not tuned:
        raise UserError(
            f"report.beside: {name}: {file} has no evaluation of a tuned model; name the folder of a run that was "
            "evaluated and reported, or its results.json"
        )
    return OtherRun(name, path, excerpt(found.get("model") or "", 80), tuned, start)


def _file(config: Config, name: str, path: str) -> Path:
    """The results.json at a path. Raises UserError if there is none, or if it is this run's own."""
    try:
        place = expand(path)
        file = place / FILE if place.is_dir() else place
        if not file.is_file():
            raise UserError(f"report.beside: {name}: {file}: no such file; name another run's folder or results.json")
        if file.resolve() == Path(config.output_dir, FILE).resolve():
            raise UserError(f"report.beside: {name}: {file} is this run's own; name another run")
    except (OSError, ValueError) as error:  # a NUL in the name, or a folder that may not be read
        raise UserError(f"report.beside: {name}: {path} cannot be read ({error})") from None
    return file


def _rows_of(evaluation: Any, model: str) -> dict[Key, Row]:
    """The usable rows of one model."""
    rows = evaluation if isinstance(evaluation, list) else []
    return {_key(row): row for row in rows if isinstance(row, Mapping) and row.get("model") == model and _is_row(row)}


def _is_row(row: Row) -> bool:
    count = row.get("n")
    return _number(row.get("value")) is not None and isinstance(count, int) and not isinstance(count, bool)


def _key(row: Row) -> Key:
    measure, kind, name, judge = (str(row.get(part) or "") for part in ("measure", "kind", "set", "judge"))
    return measure, kind, name, judge


# -- comparing -------------------------------------------------------------------------------------------------------


def _describe(other: OtherRun, own: Mapping[str, Mapping[Key, Row]], model: str) -> dict[str, Any]:
    known = {**own["base"], **own["tuned"]}
    same = [key for key in other.tuned if key in known and _asked(key, other.tuned) == _asked(key, known)]
    notes = [
        *_note_model(other.model, model),
        *_note_start(other.start, own["base"], same),
        *_note_left_out(other.tuned, known, set(same)),
    ]
    rows = [_row(other, key, known[key]) for key in same]
    return {"name": other.name, "source": other.source, "rows": rows, "notes": notes}


def _asked(key: Key, rows: Mapping[Key, Row]) -> tuple[int, frozenset[tuple[str, int]]]:
    """Of how many prompts or rows a figure is, and of which sets, if it is one of all sets of a kind."""
    measure, kind, name, judge = key
    sets = [k for k in rows if (k[0], k[1], k[3]) == (measure, kind, judge)] if name == "all" else []
    return _count(rows[key]), frozenset((k[2], _count(rows[k])) for k in sets)


def _count(row: Row) -> int:
    """The number of prompts, with those on which a judge gave no verdict."""
    missing = (row.get(name) for name in ("unparsed", "declined", "failed"))
    return int(row["n"]) + sum(value for value in missing if isinstance(value, int))


def _row(other: OtherRun, key: Key, own: Row) -> dict[str, Any]:
    """A row of the evaluation table: the words of this run's row, the numbers of the other one's."""
    found = other.tuned[key]
    words = {name: own[name] for name in ("set", "kind", "judge", "measure", "title", "unit")}
    numbers = {name: _number(found.get(name)) for name in ("value", "low", "high")} | {"n": found["n"]}
    row = {"model": other.name, "source": other.source, **words, **numbers}
    difference = found.get("difference")
    if not isinstance(difference, Mapping):
        return row
    ends = {name: _number(difference.get(name)) for name in ("value", "low", "high")}
    return row if None in ends.values() else row | {"difference": ends}


def _note_model(other: str, own: str) -> list[str]:
    return [f"its start model is {other}, not {own}"] if other and other != own else []


def _note_start(other: Mapping[Key, Row], own: Mapping[Key, Row], shown: Iterable[Key]) -> list[str]:
    """A note for each measure of which the same start model on the same prompts would have the same figure."""
    notes = []
    for key in shown:
        if key[0] in ("discrimination", "loss") and key in other and key in own:
            theirs, ours = float(other[key]["value"]), float(own[key]["value"])
            if abs(theirs - ours) > START_TOLERANCE:
                what = f"{own[key]['title']} ({key[2].replace('_', '-')})"
                notes.append(
                    f"{what} of its start model is {theirs:.3f}, of this one's {ours:.3f}: the model, the prompts or "
                    "rows, or how they are read differ"
                )
    return notes


def _note_left_out(other: Mapping[Key, Row], own: Mapping[Key, Row], shown: set[Key]) -> list[str]:
    """What of the other run is not in the table: figures of other prompts or rows, and those that this run lacks."""
    titles = (f"{own[key]['title']} ({_where(key)})" for key in other if key in own and key not in shown)
    differing = list(dict.fromkeys(titles))
    unknown = sum(key not in own for key in other)
    notes = [f"left out, of other prompts or rows than here: {', '.join(differing)}"] if differing else []
    return notes + ([f"{plural(unknown, 'figure')} of it left out that this run does not have"] if unknown else [])


def _where(key: Key) -> str:
    return " ".join(filter(None, (key[1], key[2].replace("_", "-"))))


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:  # an integer of a thousand digits
        return None
    return number if math.isfinite(number) else None
