"""``sealtune repair``: an adapter's folder in, a safe adapter's folder out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealtune.core.config import Config, TuneConfig
from sealtune.core.console import track
from sealtune.core.errors import UserError
from sealtune.core.files import Folder
from sealtune.pipeline.guard_set import guard_rows
from sealtune.pipeline.inputs import RunInputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sealtune.tuning.guard import Record
    from sealtune.tuning.repair import Repaired, RepairSettings

logger = logging.getLogger(__name__)

ADAPTER = "adapter"
RESULTS = "repair.json"

CARD = """---
base_model: {base}
library_name: peft
tags:
- sealtune
- safety
---

# {adapter}, repaired by sealtune

{what} The safe set was {safe}; a third of it was not learned from, and is what the table shows.

| on safe rows not learned from | start model | adapter as it was | repaired |
|---|---|---|---|
{table}

The distances are nats per response token; below 0 the safe answers became likelier than in the start model.
"""

MEASURES = {
    "J": "J, probability of refusing harmful prompts minus harmless ones",
    "refuse": "distance, safe answers that refuse",
    "help": "distance, safe answers that help",
    "task_divergence": "KL to the adapter as it was, on rows of the task",
}


def check(adapter: Path, config: Config) -> None:
    """Raise UserError if the adapter cannot be repaired with this config, before a model is loaded."""
    from sealtune.models.adapter_folder import adapter_shapes, is_adapter

    if not is_adapter(adapter):
        raise UserError(f"{adapter}: not the folder of an adapter; it has no adapter_config.json")
    adapter_shapes(adapter)
    if not config.safe_datasets:
        raise UserError("repair: no safe set; name it with --safe FILE")
    if Path(config.output_dir, ADAPTER).resolve() == adapter.resolve():
        raise UserError(f"repair: --out {config.output_dir} would replace the adapter itself; name another folder")
    if config.tune.guard == "off":
        raise UserError("tune.guard: a repair needs the guard; set it to teach, keep or auto")
    if config.load_in_4bit:
        raise UserError("load_in_4bit: an adapter is repaired on the weights themselves; set it to false")


def repair(adapter: Path, config: Config) -> Repaired:
    """Write a repaired copy of an adapter to ``output_dir``/adapter, and what was measured to repair.json.

    Args:
        adapter: The folder of a LoRA adapter.
        config: Names the base model, the safe set, rows of the task (``datasets``; there may be none), and the guard.

    Raises:
        UserError: The adapter, the model or the rows cannot be used.
        RunError: A weight became NaN or infinite.
    """
    from sealtune.models.adapter_folder import apply_adapter
    from sealtune.models.load import load_model, public_name

    check(adapter, config)
    folder = Folder(config.output_dir)
    folder.prepare()
    inputs = RunInputs(config)
    tokenizer = inputs.load_tokenizer()
    inputs.load_safe()  # whatever is wrong with the rows is said before the model is loaded
    logger.info("loading %s", config.model_name_or_path)
    model = apply_adapter(load_model(config), adapter)
    done = repair_model(model, tokenizer, inputs)
    with folder.atomic_folder(ADAPTER) as scratch:
        model.save_pretrained(str(scratch), save_embedding_layers=False)
        tokenizer.save_pretrained(str(scratch))
        card = CARD.format(
            base=public_name(config),
            adapter=adapter.name,
            what=describe(done),
            safe=", ".join(c.name or c.path for c in config.safe_datasets),
            table="\n".join(f"| {' | '.join(row)} |" for row in table(done)),
        )
        (scratch / "README.md").write_text(card, encoding="utf-8")
    folder.write_json(RESULTS, done._asdict() | {"adapter": str(adapter), "model": config.model_name_or_path})
    return done


def repair_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, inputs: RunInputs) -> Repaired:
    """Repair an adapter in place, with the safe set and the rows of these inputs."""
    from sealtune.tuning.repair import repair as repair_adapter

    safe = guard_rows(inputs)
    assert safe is not None
    encoded = inputs.load_candidates().encoded if inputs.config.datasets else inputs.load_safe().encoded.take([])
    with track("repair") as advance:
        settings = _settings(inputs.config.tune, inputs.config.seed)
        done = repair_adapter(model, tokenizer, safe, encoded, settings, _reporting(advance, settings))
    logger.info("repair: %s", describe(done))
    return done


def _settings(tune: TuneConfig, seed: int) -> RepairSettings:
    from sealtune.tuning.guard import GuardSettings
    from sealtune.tuning.repair import RepairSettings

    assert tune.guard != "off"
    rows = tune.guard_batch_size or RepairSettings().guard.rows
    guard = GuardSettings(tune.guard, tune.guard_weight, rows, tune.guard_tolerance, seed)
    return RepairSettings(guard, learning_rate=tune.learning_rate)


def _reporting(advance: Any, settings: RepairSettings) -> Callable[[int, int, Record], None]:
    last = 0

    def report(step: int, total: int, record: Record) -> None:
        nonlocal last
        rows = (step - last) * (settings.guard.rows + settings.task_rows)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in record.items() if name != "step")
        advance(step, total, rows, 0, shown)
        last = step

    return report


def describe(done: Repaired) -> str:
    """What was done, in one sentence."""
    if done.scale != 1.0:
        how = f"Its scale was lowered to {done.scale:g} of what it was."
    elif done.steps:
        how = f"It was trained for {done.steps} steps on safe rows, close to the adapter as it was."
    else:
        how = "It was as safe as the start model already, and was left as it is."
    return how if done.is_safe else f"{how} It is still less safe than the start model: give more safe rows."


def table(done: Repaired) -> list[list[str]]:
    """The measures by row: title, start model, adapter as it was, repaired."""
    records = (done.start, done.tuned, done.repaired)
    return [
        [title, *(f"{record[name]:.3f}" if name in record else "" for record in records)]
        for name, title in MEASURES.items()
        if any(name in record for record in records)
    ]
