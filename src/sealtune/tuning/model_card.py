"""The model card of a tuned model: what it was made from and how, so that others can judge it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealtune.core.config import Config
from sealtune.models.load import public_name

CARD = """---
base_model: {base}
library_name: {library}
tags:
- sealtune
- data-selection
- safety
---

# {base}, tuned on rows selected by sealtune

{ranked:,} candidate rows were ranked by `{method}` against a safe set ({safe}); {kept:,} were kept and {rows:,} rows
(those mixed in afterwards included) were trained on.

| stage | rows | tokens | seconds |
|---|---|---|---|
{stages}

Fine-tuning: {epochs:g} epochs, learning rate {rate:g}, batch {batch}, {shape}, seed {seed}, at most {length} tokens a
row, loss on response tokens only. sealtune {version}.

Selection lowers the share of unsafe rows; it does not prove that none is left. See `evaluate/` and `report.html` of the
run for what was measured, and measure again for your own use.
"""


def model_card(config: Config, manifest: Mapping[str, Any], rows: int) -> str:
    """Text of README.md beside the adapter or the model."""
    stages, tune = manifest["stages"], config.tune
    lines = [
        f"| {name} | {entry.get('rows', '')} | {entry.get('tokens', '')} | {entry['seconds']:.0f} |"
        for name, entry in stages.items()
        if name in ("rank", "select")
    ]
    return CARD.format(
        base=public_name(config),
        library="peft" if tune.use_peft and not tune.merge else "transformers",
        ranked=stages["rank"]["rows"],
        method=config.rank.method,
        safe=", ".join(c.name or c.path for c in config.safe_datasets),
        kept=stages["select"]["rows"],
        rows=rows,
        stages="\n".join(lines),
        epochs=tune.num_train_epochs,
        rate=tune.learning_rate,
        batch=tune.per_device_train_batch_size * tune.gradient_accumulation_steps,
        shape=f"LoRA of rank {tune.lora_r}" if tune.use_peft else "all weights",
        seed=config.seed,
        length=config.max_length,
        version=manifest.get("sealtune", ""),
    )
