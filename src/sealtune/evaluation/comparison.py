"""The table of a comparison: each measure per method, over its seeds, with intervals and paired differences."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sealtune.core.sanitize import one_line
from sealtune.core.types import Response, Verdict
from sealtune.evaluation.judges import load_judge
from sealtune.evaluation.metrics import mean_interval, paired_bootstrap

Row = dict[str, Any]


class MethodResult(NamedTuple):
    """A method's finished run with one seed: evaluation table, answers, verdicts, and facts about its rows."""

    method: str
    seed: int
    table: list[Row]
    responses: list[Response]
    verdicts: list[Verdict]
    facts: dict[str, Any]


class Key(NamedTuple):
    """What was measured, on which prompts, by which judge."""

    measure: str
    kind: str
    judge: str

    @property
    def pairwise(self) -> bool:
        """Whether the judge compares the method with the reference."""
        return load_judge(self.judge).pairwise


Values = dict[tuple[str, Key], dict[str, list[float]]]
"""Method and key -> id of a prompt -> its value with each seed."""


def table(results: Sequence[MethodResult], preferences: Sequence[Verdict], reference: str) -> list[Row]:
    """Rows of the evaluation table, one per method, with the additional keys seeds, sd and difference.

    ``value`` is the mean over the seeds, ``sd`` their standard deviation (None with one seed), ``n`` the number of
    prompts or rows. With several seeds, the 95 % interval is a bootstrap over the prompts, each with its mean over the
    seeds; with one seed it is that of the run. ``difference`` is that to the reference, paired by prompt.

    Args:
        results: One per method and seed.
        preferences: Verdicts of a pairwise judge on the answers of each method and of the reference.
        reference: The method that the others are compared with.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for result in results:
        for row in result.table:
            if row["set"] == "all" or row["unit"] in ("nats", "score"):
                key = (result.method, row["measure"], row["set"], row["kind"], row["judge"])
                groups.setdefault(key, []).append(row)
    values = _values(results, preferences)
    rows = [_mean_over_seeds(group, values) for group in groups.values()]
    rows += [_pairwise_row(*key, found) for key, found in values.items() if key[1].pairwise]
    return [row | {"difference": _difference(row, values, reference)} for row in rows]


def _values(results: Sequence[MethodResult], preferences: Sequence[Verdict]) -> Values:
    """The values per prompt of every measure that has any."""
    values: Values = {}
    verdicts = [verdict for result in results for verdict in result.verdicts]
    for verdict in (*verdicts, *preferences):
        for name, measure in load_judge(verdict.judge).measures.items():
            value = measure.value(verdict)
            if value is not None:
                key = (verdict.model, Key(name, verdict.kind, verdict.judge))
                values.setdefault(key, {}).setdefault(verdict.id, []).append(value)
    return values


def _mean_over_seeds(group: Sequence[Row], values: Values) -> Row:
    """One row for the rows of all seeds."""
    first = group[0]
    by_seed = [row["value"] for row in group]
    row = first | {"value": statistics.fmean(by_seed), "seeds": len(by_seed), "sd": _sd(by_seed)}
    found = values.get((first["model"], _key(first)))
    if len(group) > 1 and found:
        return row | mean_interval(_prompt_means(found))._asdict()
    if len(group) > 1 and first["low"] is not None:  # losses: the same rows with each seed, one interval per seed
        return row | {end: statistics.fmean(r[end] for r in group) for end in ("low", "high")}
    return row


def _pairwise_row(method: str, key: Key, found: Mapping[str, Sequence[float]]) -> Row:
    """A row that no single run has: how the method compares with the reference."""
    by_seed = [statistics.fmean(values) for values in zip(*found.values(), strict=False)]
    measure = load_judge(key.judge).measures[key.measure]
    where = {"model": method, "measure": key.measure, "set": "all", "kind": key.kind, "judge": key.judge}
    interval = mean_interval(_prompt_means(found))._asdict()
    seeds = {"seeds": len(by_seed), "sd": _sd(by_seed)}
    return where | {"title": measure.title, "unit": measure.unit} | interval | seeds


def _difference(row: Row, values: Values, reference: str) -> dict[str, float] | None:
    """The method's value minus the reference's, over the prompts for which both have a verdict."""
    key = _key(row)
    own, other = values.get((row["model"], key)), values.get((reference, key))
    if row["model"] == reference or not own or not other or row["set"] != "all" or key.pairwise:
        return None
    shared = sorted(own.keys() & other.keys())
    if not shared:
        return None
    a, b = ([statistics.fmean(side[i]) for i in shared] for side in (own, other))
    return paired_bootstrap(a, b, seed=0)._asdict()


def _key(row: Row) -> Key:
    return Key(row["measure"], row["kind"], row["judge"])


def _prompt_means(found: Mapping[str, Sequence[float]]) -> Iterable[float]:
    return (statistics.fmean(values) for values in found.values())


def _sd(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def selections(results: Sequence[MethodResult]) -> list[Row]:
    """What each method was trained on: rows kept and dropped, unsafe rows dropped if they are known, seconds."""
    rows = []
    for result in results:
        if not result.facts:
            continue
        ranking = result.facts["ranking"] or {}
        row = {"method": result.method, "seed": result.seed, **result.facts["rows"]}
        row |= {name: ranking.get(name) for name in ("unsafe_rows", "unsafe_rows_dropped", "auroc")}
        row["seconds"] = sum(stage["seconds"] for stage in result.facts["cost"].values())
        rows.append(row)
    return rows


def markdown(content: Mapping[str, Any]) -> str:
    """The table with one row per method and one column per measure, followed by the methods that failed."""
    rows = content["table"]
    columns = list(dict.fromkeys(_column(row) for row in rows))
    cells = {(row["model"], _column(row)): row for row in rows}
    heads = [_head([row for row in rows if _column(row) == column]) for column in columns]
    lines = [f"# Comparison on {_escape(content['model'])}", ""]
    lines += [f"Seeds: {', '.join(map(str, content['seeds']))}. Mean ± standard deviation over the seeds,"]
    lines += [f"[95 % interval], p of the paired difference to `{content['reference']}`.", ""]
    lines += [f"| method | {' | '.join(heads)} | unsafe rows trained on |", "|---" * (len(heads) + 2) + "|"]
    for method in content["methods"]:
        shown = [_cell(cells.get((method, column))) for column in columns]
        lines.append(f"| {method} | {' | '.join(shown)} | {_unsafe_left(content['selection'], method)} |")
    lines += ["", *(f"Failed: {f['method']}, seed {f['seed']}: {_escape(f['error'])}" for f in content["failed"])]
    return "\n".join(lines).rstrip() + "\n"


def _column(row: Row) -> tuple[str, str, str, str]:
    return row["measure"], row["set"], row["kind"], row["judge"]


def _escape(text: str) -> str:
    """The text on one line without active Markdown: an error may quote a row."""
    return re.sub(r"[\\`*_\[\]<>|&@]|:(?=//)|\.(?<=www\.)", r"\\\g<0>", one_line(text))


def _head(rows: Sequence[Row]) -> str:
    row = rows[0]
    where = f"{row['kind']} prompts" if row["set"] == "all" else f"{row['set']}".replace("_", "-")
    parts = [row["title"], where, *([row["judge"]] if row["judge"] else [])]
    return f"{_escape(', '.join(parts))} (n = {max(r['n'] for r in rows)})"


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    form = "{:.1%}" if row["unit"] == "share" else "{:.3f}"
    text = form.format(row["value"])
    if row["sd"] is not None:
        text += f" ± {form.format(row['sd'])}"
    if row["low"] is not None:
        text += f" [{form.format(row['low'])}, {form.format(row['high'])}]"
    if row["difference"] is not None:
        text += f" p = {row['difference']['p']:.2g}"
    return text


def _unsafe_left(selection: Sequence[Row], method: str) -> str:
    """The mean number of unsafe rows that a method was trained on, if it is known."""
    known = [row for row in selection if row["method"] == method and row["unsafe_rows"] is not None]
    left = [row["unsafe_rows"] - (row["unsafe_rows_dropped"] or 0) for row in known]
    return f"{statistics.fmean(left):.4g}" if left else ""
