"""The model card of a tuned model: what it was made from, and how."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealtune.core.config import Config
from sealtune.models.adapter_chain import adapter_of, base_of
from sealtune.models.load import public_name
from sealtune.tuning.saved_model import stands_on

if TYPE_CHECKING:
    from sealtune.tuning.train import TuningResult

CARD = """---
base_model: {base}
library_name: {library}
tags:
- sealtune
- data-selection
- safety
---

# {base}, fine-tuned on rows selected by sealtune

{ranked:,} candidate rows were ranked {ranked_by}. {kept:,} rows were kept. The model was
trained on {rows:,} rows, including any rows of `select.mix_datasets`.{continued}

| stage | rows | tokens | seconds |
|---|---|---|---|
{stages}

| fine-tuning | |
|---|---|
| steps | {steps:,} |
| epochs | {epochs:.3g} |
| rows per step (all processes) | {batch_size:,} |
| learning rate | {learning_rate:g} |
| trained | {trained} |
| loss | response tokens only, at most {max_length:,} tokens per row |
| seed | {seed} |
| guard | {guard} |

sealtune {version}.

Selection lowers the share of unsafe rows; it does not prove that none is left. `evaluate/` and `report.html` of the run
show what was measured. Measure again for your own use.
"""


def model_card(config: Config, manifest: Mapping[str, Any], rows: int, result: TuningResult) -> str:
    """The text of the README.md next to the adapter or the model.

    Args:
        config: The config of the run.
        manifest: The manifest of the run, with the stages rank and select.
        rows: Number of training rows.
        result: How the model was trained.
    """
    stages, tune = manifest["stages"], config.tune
    base = public_name(stands_on(config))
    lines = [
        f"| {name} | {entry.get('rows', '')} | {entry.get('tokens', '')} | {entry['seconds']:.0f} |"
        for name, entry in stages.items()
        if name in ("rank", "select")
    ]
    return CARD.format(
        base=base,
        continued=_continued(config),
        library="peft" if tune.use_peft and not tune.merge else "transformers",
        ranked=stages["rank"]["rows"],
        ranked_by=ranked_by(config),
        kept=stages["select"]["rows"],
        rows=rows,
        stages="\n".join(lines),
        steps=result.steps,
        epochs=result.epochs,
        batch_size=result.batch_size,
        learning_rate=tune.learning_rate,
        trained=f"LoRA of rank {tune.lora_r}" if tune.use_peft else "all weights",
        seed=config.seed,
        guard=_guard(config, result),
        max_length=config.max_length,
        version=manifest.get("sealtune", ""),
    )


def ranked_by(config: Config) -> str:
    """What ranked the rows, for readers on other machines."""
    if config.rank.scores is not None:
        return f"by scores made elsewhere (`{Path(config.rank.scores).name}`)"
    names = (c.name or (Path(c.path).name if Path(c.path).exists() else c.path) for c in config.safe_datasets)
    safe = ", ".join(names)
    return f"by `{config.rank.method}` against a safe set ({safe})"


def _guard(config: Config, result: TuningResult) -> str:
    """How the safe set was in force, and what it measured on safe rows that were not learned from."""
    if not result.guard:
        return "off"
    kept = result.kept_step or result.steps
    best = next((record for record in result.guard if record["step"] == kept), result.guard[-1])
    start = result.guard[0]["J"]
    kept_as = f"`{config.tune.guard}`; step {kept} of {result.steps} is kept"
    return f"{kept_as}; J on safe rows not learned from: {best['J']:.3f} (start model: {start:.3f})"


def _continued(config: Config) -> str:
    """What to say if the model was an adapter's folder."""
    first = adapter_of(config)
    if first is None:
        return ""
    name, base = config.model_name_or_path, public_name(base_of(config, first))
    if not config.tune.use_peft or config.tune.merge or stands_on(config) is not config:
        return f"\n\nThe tuning continued the adapter `{name}` of `{base}`, which is contained in this model."
    return (
        f"\n\nThe adapter stands on `{base}` with the adapter `{name}` merged into it, not on `{base}` alone: "
        "`adapter_config.json` names the folder of that model."
    )
