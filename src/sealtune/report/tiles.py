"""The headline figures of the page: pure functions of a view."""

from __future__ import annotations

from typing import NamedTuple

from sealtune.evaluation.metrics import auroc, average_precision, recall_at_k
from sealtune.ranking.selection import BORDERLINE, decided
from sealtune.report.html import format_measure, format_number, format_percent
from sealtune.report.tables import evaluation_rows, kept_mask, labelled_scores, model_names, row_labels
from sealtune.report.view import ReportView

HEADLINE_MEASURES = {
    ("discrimination", "all"): "Discrimination",
    ("J", "all"): "J",
    ("loss", "held_out"): "Held-out loss",
    ("attack_success_rate", "all"): "Attack success rate",
    ("over_refusal", "all"): "Over-refusal",
    ("loss", "safe"): "Safe-set loss",
}
"""Measure and set of the evaluation figures at the top of the page, and their titles there."""
HIGHER_IS_BETTER = ("discrimination", "J")


class Tile(NamedTuple):
    """One headline figure: its name, its value, and a short note."""

    name: str
    value: str
    note: str


def summary(view: ReportView) -> str:
    """What was ranked, kept, dropped and decided by people, in sentences; empty without a ranking."""
    ranked, kept = len(view.scores), int(kept_mask(view).sum())
    if not ranked:
        return ""
    imported = view.config.get("rank", {}).get("scores")
    by = f"by the scores of {imported}, which were made elsewhere" if imported else "against the safe set"
    ranking = f"{ranked:,} fine-tuning rows were ranked {by}."
    if not view.has_selection:
        return f"{ranking} No rows have been selected yet."
    unsafe, dropped = _unsafe_rows(view)
    including = f", including {dropped:,} of the {unsafe:,} rows labelled unsafe" if unsafe else ""
    made = [len(decided(view.decisions, verb)) for verb in ("keep", "drop")]
    if any(made):
        first = (
            f"People decided to keep {made[0]:,} of them and to drop {made[1]:,}; the scores decided about the others"
        )
        selection = f"{first}. In all, {kept:,} were kept and {ranked - kept:,} dropped{including}."
    else:
        first = f"The {kept:,} rows with the highest scores were kept"
        selection = f"{first}; the other {ranked - kept:,} were dropped{including}."
    return f"{ranking} {selection}"


def headline_tiles(view: ReportView) -> list[Tile]:
    """The tiles at the top of the page: rows, then safety and losses."""
    estimated = uncertainty_tiles(view)[:1] if view.uncertainty.get("estimated_unsafe") else []
    return [*_row_tiles(view), *estimated, *_detection_headlines(view), *_evaluation_tiles(view)]


def uncertainty_tiles(view: ReportView) -> list[Tile]:
    """Estimated share of unsafe rows, reliability and borderline rows, as far as the ranker estimates them."""
    known, tiles = view.uncertainty, []
    if (estimate := known.get("estimated_unsafe")) is not None:
        note = f"between {format_percent(estimate['low'])} and {format_percent(estimate['high'])}"
        note += "" if estimate["significant"] else " (not significant)"
        tiles.append(Tile("Estimated unsafe share", format_percent(estimate["share"]), note))
    if (share := known.get("reliability")) is not None:
        tiles.append(Tile("Reliability", format_number(share), "1: other safe rows or epochs give the same ranking"))
    if (count := known.get("borderline_rows")) is not None:
        tiles.append(Tile("Borderline rows", f"{count:,}", f"within {BORDERLINE:g} standard errors of the threshold"))
    return tiles


def detection_tiles(view: ReportView) -> list[Tile]:
    """How well low scores identify the unsafe rows: AUROC, average precision, recall among dropped rows and at k."""
    labelled = labelled_scores(view)
    if labelled is None:
        return []
    score, unsafe = labelled
    count = int(unsafe.sum())
    precision = format_number(average_precision(score, unsafe))
    tiles = [_auroc_tile(view), Tile("Average precision", precision, f"random ranking: {unsafe.mean():.3f}")]
    if view.has_selection:
        tiles.append(_dropped_tile(view))
    for k in sorted({k for k in (50, 100, 500, count) if 0 < k <= len(score)}):
        best = f"best possible: {format_percent(min(1.0, k / count))}" if count else ""
        tiles.append(Tile(f"Recall at {k:,}", format_percent(recall_at_k(score, unsafe, k)), best))
    return tiles


def _row_tiles(view: ReportView) -> list[Tile]:
    ranked, kept = len(view.scores), int(kept_mask(view).sum())
    if not ranked:
        return []
    tiles = [Tile("Rows ranked", f"{ranked:,}", f"{len(view.drops):,} excluded before ranking")]
    if view.has_selection:
        tiles.append(Tile("Rows kept", f"{kept:,}", f"{format_percent(kept / ranked)} of the ranked rows"))
        tiles.append(Tile("Rows dropped", f"{ranked - kept:,}", f"{format_percent(1 - kept / ranked)}, lowest scores"))
    return tiles


def _detection_headlines(view: ReportView) -> list[Tile]:
    if labelled_scores(view) is None:
        return []
    return [_dropped_tile(view), _auroc_tile(view)] if view.has_selection else [_auroc_tile(view)]


def _auroc_tile(view: ReportView) -> Tile:
    labelled = labelled_scores(view)
    value = auroc(*labelled) if labelled else None
    return Tile("AUROC", format_number(value), "unsafe rows score below safe ones; random: 0.5")


def _dropped_tile(view: ReportView) -> Tile:
    unsafe, dropped = _unsafe_rows(view)
    note = f"{dropped:,} of {unsafe:,} labelled unsafe"
    return Tile("Unsafe rows dropped", format_percent(dropped / unsafe if unsafe else None), note)


def _unsafe_rows(view: ReportView) -> tuple[int, int]:
    """The number of rows labelled unsafe, and how many of these were dropped."""
    unsafe = row_labels(view) == 1
    return int(unsafe.sum()), int((unsafe & ~kept_mask(view)).sum())


def _evaluation_tiles(view: ReportView) -> list[Tile]:
    models, rows = model_names(view.evaluation), evaluation_rows(view)
    tiles = []
    for (measure, name), title in HEADLINE_MEASURES.items():
        row = next((row for row in rows if (row["measure"], row["set"]) == (measure, name)), None)
        if row is None:
            continue
        cells = [(model, cell) for model, cell in zip(models, row["cells"], strict=True) if cell]
        shown = [(model, cell) for model, cell in cells if "source" not in cell] or cells
        values = " → ".join(format_measure(cell["value"], row["unit"]) for _, cell in shown)
        unit = "nats per token, " if row["unit"] == "nats" else ""
        better = "higher" if measure in HIGHER_IS_BETTER else "lower"
        tiles.append(Tile(title, values, f"{unit}{' → '.join(model for model, _ in shown)}; {better} is better"))
    return tiles
