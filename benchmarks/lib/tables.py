"""Tables of many runs: mean and standard deviation over seeds."""

from __future__ import annotations

import statistics
import time

DROPPED = ("hard_negatives_dropped", "hard_negatives_at_k", "low_quality_dropped")
MEASURES = ("auroc", "average_precision", "recall_20", "recall_k", *DROPPED)
COSTS = ("forward_epochs", "backward_epochs", "cost", "seconds", "peak_memory_bytes")
WHERE = ("model", "safe", "safe_rows", "drawn", "max_length", "mixture", "settings")


def table(runs: list[dict]) -> list[dict]:
    """One row per ranker and mixture, then one per ranker with its mean over the mixtures that have unsafe rows."""
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
    """Mean and standard deviation of every figure of runs that differ in their seed."""
    where = {key: group[0][key] for key in (*WHERE, "ranker")}
    sizes = {key: statistics.fmean(run[key] for run in group) for key in ("rows", "unsafe", "safe_set")}
    figures = {key: mean_and_sd([run[key] for run in group if run.get(key) is not None]) for key in MEASURES + COSTS}
    return where | {"seeds": len({run["seed"] for run in group})} | sizes | figures


def mean_and_sd(values: list[float]) -> dict[str, float] | None:
    """Mean and standard deviation; None without values."""
    if not values:
        return None
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}


def markdown(rows: list[dict]) -> str:
    """The table in Markdown, without the settings that all rows share."""
    shown = [key for key in WHERE if key == "mixture" or len({str(row[key]) for row in rows}) > 1]
    heads = ["ranker", "seeds", "AUROC", "AP", "recall in 20 %", "recall at k"]
    heads = [*shown, *heads, "hard neg. dropped", "at k", "low quality dropped", "cost, epochs", "seconds", "peak GiB"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in sorted(rows, key=lambda r: (r["mixture"] == "mean", *(str(r[key]) for key in shown))):
        where = [setting_cell(row, key) for key in shown] + [row["ranker"], str(row["seeds"])]
        figures = [cell(row[key], 3 if key == "auroc" else 2) for key in MEASURES]
        costs = [cell(row["cost"], 2), cell(row["seconds"], 0), cell(row["peak_memory_bytes"], 1, 2**30)]
        lines.append(f"| {' | '.join([*where, *figures, *costs])} |")
    return "\n".join(lines) + "\n"


def setting_cell(row: dict, key: str) -> str:
    """A cell with one setting of the runs."""
    if key == "mixture" and row["mixture"] != "mean":
        return f"{row['mixture']} ({row['rows']:.0f}, {row['unsafe']:.0f} unsafe)"
    return " ".join(row[key]) if isinstance(row[key], list) else str(row[key])


def cell(value: dict[str, float] | None, digits: int, unit: float = 1) -> str:
    """Mean ± standard deviation."""
    return "" if value is None else f"{value['mean'] / unit:.{digits}f} ± {value['sd'] / unit:.{digits}f}"


def progress_line(run: dict) -> str:
    """One finished run in one line."""
    figures = "  ".join(f"{key} {run[key]:.3f}" for key in MEASURES if run.get(key) is not None)
    return f"{time.strftime('%H:%M:%S')} {run['mixture']:12} {run['ranker']:14} seed {run['seed']}  {figures}"
