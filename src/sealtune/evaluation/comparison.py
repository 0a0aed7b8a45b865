"""The table of a comparison: each measure of each method over its seeds, with intervals and paired differences."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sealtune.core.sanitize import one_line
from sealtune.core.types import Response, Verdict
from sealtune.evaluation.judges import load_judge
from sealtune.evaluation.metrics import mean_interval, paired_bootstrap, refusal_figure


class MethodResult(NamedTuple):
    """What a finished run says of one model: its table, its answers, their verdicts, and facts about its rows."""

    method: str
    seed: int
    table: list[dict[str, Any]]
    responses: list[Response]
    verdicts: list[Verdict]
    facts: dict[str, Any]


Key = tuple[str, str, str]
"""Measure, kind of the prompts, judge."""

Figures = dict[tuple[str, Key], dict[str, list[float]]]
"""Method and key -> id of a prompt -> its figure with each seed."""


def table(answered: Sequence[MethodResult], preferred: Sequence[Verdict], reference: str) -> list[dict[str, Any]]:
    """Rows with model (the method), measure, set, kind, judge, value, low, high, n, seeds, sd and difference.

    ``value`` is the mean over the seeds, ``sd`` its spread over them (None with one), ``n`` the number of prompts or
    rows. With several seeds the 95 % interval is a bootstrap over the prompts, of which each counts with its mean over
    the seeds; with one it is the run's own. ``difference`` is that to the reference, paired by prompt.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for part in answered:
        for row in part.table:
            if row["set"] == "all" or row["measure"] == "loss" or row["judge"] == "lm-eval":
                key = (part.method, row["measure"], row["set"], row["kind"], row["judge"])
                groups.setdefault(key, []).append(row)
    figures = _figures(answered, preferred)
    rows = [_summary(group, figures) for group in groups.values()]
    rows += [_from_figures(key, found) for key, found in figures.items() if key[1][0] == "win_rate"]
    for row in rows:
        row["difference"] = _difference(row, figures, reference)
    return rows


def _figures(answered: Sequence[MethodResult], preferred: Sequence[Verdict]) -> Figures:
    """Each prompt's figures, as far as a judge gave any."""
    figures: Figures = {}
    verdicts = [verdict for part in answered for verdict in part.verdicts]
    for verdict in (*verdicts, *preferred):
        if verdict.error is None:
            for measure, figure in _measured(verdict):
                key = (verdict.model, (measure, verdict.kind, verdict.judge))
                figures.setdefault(key, {}).setdefault(verdict.id, []).append(figure)
    return figures


def _measured(verdict: Verdict) -> Iterable[tuple[str, float]]:
    """The measures that a verdict is a figure of."""
    measures: Mapping[str, str] | None = getattr(load_judge(verdict.judge), "MEASURES", None)
    if measures is None:
        return [refusal_figure(verdict)]
    found = {name: verdict.flagged if field == "flagged" else verdict.score for name, field in measures.items()}
    return [(name, float(value)) for name, value in found.items() if value is not None]


def _summary(group: list[dict[str, Any]], figures: Figures) -> dict[str, Any]:
    """One row of several seeds' rows."""
    first = group[0]
    values = [row["value"] for row in group]
    row = first | {"value": statistics.fmean(values), "seeds": len(values), "sd": _spread(values)}
    found = figures.get((first["model"], (first["measure"], first["kind"], first["judge"])))
    if len(group) > 1 and found:
        return row | mean_interval(statistics.fmean(v) for v in found.values())._asdict()
    if len(group) > 1 and first["low"] is not None:  # losses: rows of the same set, one interval a seed
        return row | {end: statistics.fmean(r[end] for r in group) for end in ("low", "high")}
    return row


def _from_figures(key: tuple[str, Key], found: dict[str, list[float]]) -> dict[str, Any]:
    """A row of a measure that no single run has: win rates against the reference."""
    method, (measure, kind, judge) = key
    by_seed = [statistics.fmean(values) for values in zip(*found.values(), strict=False)]
    where = {"model": method, "measure": measure, "set": "all", "kind": kind, "judge": judge}
    interval = mean_interval(statistics.fmean(v) for v in found.values())._asdict()
    return where | interval | {"seeds": len(by_seed), "sd": _spread(by_seed)}


def _difference(row: Mapping[str, Any], figures: Figures, reference: str) -> dict[str, float] | None:
    """The method's figure minus the reference's, over the prompts that both were judged on."""
    key = (row["measure"], row["kind"], row["judge"])
    own, other = figures.get((row["model"], key)), figures.get((reference, key))
    if row["model"] == reference or not own or not other or row["set"] != "all" or row["measure"] == "win_rate":
        return None
    shared = sorted(own.keys() & other.keys())
    if not shared:
        return None
    a, b = ([statistics.fmean(side[i]) for i in shared] for side in (own, other))
    return paired_bootstrap(a, b, seed=0)._asdict()


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def selections(answered: Sequence[MethodResult]) -> list[dict[str, Any]]:
    """What each method trained on: rows kept and dropped, unsafe ones dropped where they are known, seconds."""
    rows = []
    for part in answered:
        if not part.facts:
            continue
        ranking = part.facts["ranking"] or {}
        row = {"method": part.method, "seed": part.seed, **part.facts["rows"]}
        row |= {name: ranking.get(name) for name in ("unsafe_rows", "unsafe_rows_dropped", "auroc")}
        row["seconds"] = sum(stage["seconds"] for stage in part.facts["cost"].values())
        rows.append(row)
    return rows


def markdown(content: Mapping[str, Any]) -> str:
    """The table, a row a method and a column a measure, and below it what was selected and what failed."""
    rows = content["table"]
    columns = list(dict.fromkeys((r["measure"], r["set"], r["kind"], r["judge"]) for r in rows))
    cells = {(r["model"], (r["measure"], r["set"], r["kind"], r["judge"])): r for r in rows}
    heads = [_head(column, [r for (_, c), r in cells.items() if c == column]) for column in columns]
    lines = [f"# Comparison on {_as_text(content['model'])}", ""]
    lines += [f"Seeds: {', '.join(map(str, content['seeds']))}. Mean over the seeds ± their spread, [95 % interval],"]
    lines += [f"p: paired against `{content['reference']}`.", ""]
    lines += [f"| method | {' | '.join(heads)} | unsafe rows trained on |", "|---" * (len(heads) + 2) + "|"]
    for method in content["methods"]:
        shown = [_cell(cells.get((method, column))) for column in columns]
        lines.append(f"| {method} | {' | '.join(shown)} | {_unsafe_left(content['selection'], method)} |")
    lines += ["", *(f"Failed: {f['method']}, seed {f['seed']}: {_as_text(f['error'])}" for f in content["failed"])]
    return "\n".join(lines).rstrip() + "\n"


def _as_text(text: str) -> str:
    """The text on one line, in which Markdown finds nothing to act on: an error may quote a row."""
    return re.sub(r"[\\`*_\[\]<>|&@]|:(?=//)|\.(?<=www\.)", r"\\\g<0>", one_line(text))


def _head(column: tuple[str, str, str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    measure, name, kind, judge = column
    words = [measure.replace("_", " "), kind if name == "all" else name.replace("_", "-")]
    source = f", {judge}" if judge else ""
    return f"{_as_text(' '.join(word for word in words if word) + source)} (n = {max(row['n'] for row in rows)})"


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    form = "{:.3f}" if row["measure"] in ("loss", "harm_rating") else "{:.1%}"
    text = form.format(row["value"])
    if row["sd"] is not None:
        text += f" ± {form.format(row['sd'])}"
    if row["low"] is not None:
        text += f" [{form.format(row['low'])}, {form.format(row['high'])}]"
    if row["difference"] is not None:
        text += f" p = {row['difference']['p']:.2g}"
    return text


def _unsafe_left(selection: Sequence[Mapping[str, Any]], method: str) -> str:
    left = [r["unsafe_rows"] - (r["unsafe_rows_dropped"] or 0) for r in selection if _knows(r, method)]
    return f"{statistics.fmean(left):.4g}" if left else ""


def _knows(row: Mapping[str, Any], method: str) -> bool:
    return row["method"] == method and row["unsafe_rows"] is not None
