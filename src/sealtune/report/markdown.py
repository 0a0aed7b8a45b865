"""The results of a run as Markdown, for the cards of models and datasets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealtune.core.sanitize import escape_unprintable
from sealtune.report.summary import measures, show

MODELS = {"base": "before tuning", "tuned": "after tuning"}


def results_section(results: Mapping[str, Any]) -> str:
    """What was measured before and after the tuning, from results.json; says so if nothing was."""
    rows = measures(results["evaluation"])
    if not rows:
        return "\n## Results\n\nThe model was not evaluated.\n"
    lines = [f"| measure | {' | '.join(MODELS.values())} |", "|---" * (len(MODELS) + 1) + "|"]
    for name, by_model in rows.items():
        cells = [name, *(show(by_model.get(model)) for model in MODELS)]
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n## Results\n\nValues with their 95 % intervals.\n\n" + "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text that stays in its cell and is not read as markup."""
    plain = escape_unprintable(" ".join(text.split()))
    for character in "\\`*_[]<>|":
        plain = plain.replace(character, f"\\{character}")
    return plain
