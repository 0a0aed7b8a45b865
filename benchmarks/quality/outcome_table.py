"""outcome.json and a table in Markdown, from the runs of outcome.py.

    python benchmarks/quality/outcome_table.py benchmarks/results/outcome.jsonl --output benchmarks/results/outcome.json

A run's refusals are those of its generated answers if it has them; otherwise a prompt counts as refused if its log-odds
of refusal exceed the start model's threshold, chosen on the other half of the prompts. ``measured_by`` says which. All
differences are paired with the start model over prompts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from sealtune.evaluation.discrimination import ByKind, discrimination, refusal_rates, refused, resamples, thresholds

PROMPTS = Path(__file__).parent / "outcome_prompts.json"
Run = dict[str, Any]


def main() -> None:
    args = parse()
    lines = [json.loads(line) for path in args.runs for line in path.read_text().splitlines()]
    runs = [run for run in lines if run["split"] == args.split]
    prompts = json.loads(args.prompts.read_text())[args.split]
    harmful = sum(map(len, prompts["harmful"].values()))
    starts = {run["model"]: run for run in runs if run["method"] == "start"}
    measured = [measure(run, starts[run["model"]], harmful) for run in runs if run["model"] in starts]
    print(markdown(measured))
    if agreement := spearman(runs, starts, harmful):
        print(f"\nSpearman, likelihood against generation: {agreement}")
    if args.output:
        content = {"split": args.split, "agreement": agreement, "runs": measured}
        args.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def by_kind(values: list[float], harmful: int) -> ByKind:
    """The values of harmful prompts, which come first, and those of harmless ones."""
    found = np.array(values, np.float64)
    return ByKind(found[:harmful], found[harmful:])


def refusals(run: Run, start: Run, harmful: int) -> tuple[ByKind, str]:
    """Whether each prompt is refused, 0 or 1, and how that was measured."""
    if "refused" in run and "refused" in start:
        gate = np.array(run["coherent"]) if "coherent" in run else 1
        return by_kind(list(np.array(run["refused"]) * gate), harmful), "generation"
    return by_likelihood(run, start, harmful), "likelihood"


def by_likelihood(run: Run, start: Run, harmful: int) -> ByKind:
    """Whether each prompt's log-odds exceed the start model's threshold."""
    return refused(by_kind(run["log_odds"], harmful), thresholds(by_kind(start["log_odds"], harmful)))


def measure(run: Run, start: Run, harmful: int) -> Run:
    """The figures of a run, with differences to its start model."""
    odds, first = (by_kind(r["log_odds"], harmful) for r in (run, start))
    shares = resamples(len(odds.harmful), len(odds.harmless))
    found, how = refusals(run, start, harmful)
    before, _ = refusals(start, start, harmful)
    (bad, good, j), (_, good0, j0) = (refusal_rates(values, shares) for values in (found, before))
    area, area0 = discrimination(odds, shares), discrimination(first, shares)
    interval, change, over = j.interval(), j.minus(j0), good.minus(good0)
    kept = ("model", "mixture", "dose", "method", "seed", "rows", "unsafe_rows", "kept_step", "seconds", "rank_seconds")
    kept += (
        "repair_seconds",
        "task_loss",
        "pair_margin",
        "prefilled_refused",
        "accuracy_sql",
        "accuracy_gsm8k",
        "command",
    )
    figures = {
        "harmful_refused": bad.value,
        "harmless_refused": good.value,
        "J": j.value,
        "J_low": interval.low,
        "J_high": interval.high,
        "J_change": change.value,
        "J_change_low": change.low,
        "J_change_high": change.high,
        "over_refusal_change": over.value,
        "over_refusal_change_high": over.high,
        "discrimination": area.value,
        "discrimination_change": area.minus(area0).value,
        "log_odds_harmful": float(odds.harmful.mean()),
        "log_odds_harmless": float(odds.harmless.mean()),
        "measured_by": how,
    }
    return {name: run[name] for name in kept if name in run} | {k: rounded(v) for k, v in figures.items()}


def rounded(value: Any) -> Any:
    return round(float(value), 4) if isinstance(value, float) else value


def spearman(runs: list[Run], starts: dict[str, Run], harmful: int) -> dict[str, float]:
    """Rank correlation over runs of what is measured by likelihood with what is measured by generation."""
    from scipy.stats import spearmanr

    pairs = defaultdict(list)
    for run in runs:
        if "refused" not in run or run["model"] not in starts:
            continue
        shares = resamples(harmful, len(run["log_odds"]) - harmful, samples=2)
        by = (
            refusal_rates(f, shares)
            for f in (by_likelihood(run, starts[run["model"]], harmful), by_kind(run["refused"], harmful))
        )
        for name, a, b in zip(("harmful_refused", "harmless_refused", "J"), *by, strict=True):
            pairs[name].append((a.value, b.value))
    return {
        name: rounded(float(spearmanr(*zip(*values, strict=True))[0]))
        for name, values in pairs.items()
        if len(values) > 4
    }


COLUMNS = (
    "mixture",
    "dose",
    "method",
    "seed",
    "harmful_refused",
    "harmless_refused",
    "J",
    "J_change",
    "discrimination",
)


def markdown(runs: list[Run]) -> str:
    """One row per run, by model."""
    lines = []
    for model in sorted({run["model"] for run in runs}):
        lines += [
            f"\n{model}\n",
            "| " + " | ".join((*COLUMNS, "task loss", "seconds")) + " |",
            "|---" * (len(COLUMNS) + 2) + "|",
        ]
        own = sorted((r for r in runs if r["model"] == model), key=lambda r: (r["mixture"], r["dose"], -r["J"]))
        for run in own:
            cells = [f"{run[c]:.2f}" if isinstance(run[c], float) else str(run[c]) for c in COLUMNS]
            loss = f"{run['task_loss']:.3f}" if "task_loss" in run else ""
            lines.append("| " + " | ".join([*cells, loss, f"{run.get('seconds', 0):.0f}"]) + " |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--split", default="final", choices=["development", "final"])
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="which prompts were asked")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
