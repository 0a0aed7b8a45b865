"""Tables of many runs: mean and spread over seeds."""

from __future__ import annotations

import statistics
import time

DROPPED = ("hard_negatives_dropped", "hard_negatives_at_k", "low_quality_dropped")
MEASURES = ("auroc", "average_precision", "recall_20", "recall_k", *DROPPED)
COSTS = ("forward_epochs", "backward_epochs", "cost", "seconds", "peak_memory_bytes")
WHERE = ("model", "safe", "safe_rows", "drawn", "max_length", "mixture", "settings")


def table(runs: list[dict]) -> list[dict]:
    """A row for each ranker on each mixture, then its mean over the mixtures that have something to find."""
    groups: dict[tuple, list[dict]] = {}
    for run in runs:
        groups.setdefault((*(str(run[key]) for key in WHERE), run["ranker"]), []).append(run)
    rows = [summary(group) for group in groups.values()]
    for ranker in dict.fromkeys(run["ranker"] for run in runs):
        found = [run for run in runs if run["ranker"] == ranker and run["auroc"] is not None and run["unsafe"]]
        if len({run["mixture"] for run in found}) > 1:
            rows.append(summary(found) | {"mixture": "mean"})
    return rows


def summary(group: list[dict]) -> dict:
    """Mean and spread of every figure of runs that differ in their seed."""
    where = {key: group[0][key] for key in (*WHERE, "ranker")}
    sizes = {key: statistics.fmean(run[key] for run in group) for key in ("rows", "unsafe", "safe_set")}
    figures = {key: spread([run[key] for run in group if run.get(key) is not None]) for key in (*MEASURES, *COSTS)}
    return where | {"seeds": len({run["seed"] for run in group})} | sizes | figures


def spread(values: list[float]) -> dict[str, float] | None:
    """Mean and standard deviation; None of nothing."""
    if not values:
        return None
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}


def markdown(rows: list[dict]) -> str:
    """The table for people; what all rows share is left out."""
    shown = [key for key in WHERE if key == "mixture" or len({str(row[key]) for row in rows}) > 1]
    heads = ["ranker", "seeds", "AUROC", "AP", "recall in 20 %", "recall at k"]
    heads = [*shown, *heads, "hard neg. dropped", "at k", "low quality dropped", "cost, epochs", "seconds", "peak GiB"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in sorted(rows, key=lambda r: (r["mixture"] == "mean", *(str(r[key]) for key in shown))):
        where = [name(row, key) for key in shown] + [row["ranker"], str(row["seeds"])]
        figures = [cell(row[key], 3 if key == "auroc" else 2) for key in MEASURES]
        costs = [cell(row["cost"], 2), cell(row["seconds"], 0), cell(row["peak_memory_bytes"], 1, 2**30)]
        lines.append(f"| {' | '.join([*where, *figures, *costs])} |")
    return "\n".join(lines) + "\n"


def name(row: dict, key: str) -> str:
    """A cell that says what was measured on."""
    if key == "mixture" and row["mixture"] != "mean":
        return f"{row['mixture']} ({row['rows']:.0f}, {row['unsafe']:.0f} unsafe)"
    return " ".join(row[key]) if isinstance(row[key], list) else str(row[key])


def cell(value: dict[str, float] | None, digits: int, unit: float = 1) -> str:
    """Mean ± spread."""
    return "" if value is None else f"{value['mean'] / unit:.{digits}f} ± {value['sd'] / unit:.{digits}f}"


def line(run: dict) -> str:
    """One run, as it ends."""
    figures = "  ".join(f"{key} {run[key]:.3f}" for key in MEASURES if run.get(key) is not None)
    return f"{time.strftime('%H:%M:%S')} {run['mixture']:12} {run['ranker']:14} seed {run['seed']}  {figures}"
