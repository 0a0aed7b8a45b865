"""The guard in TRL's own trainer: everything but the safe set is taken from the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sealtune.core.config import Config
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.pipeline.guard_set import guard_rows
from sealtune.pipeline.inputs import RunInputs
from sealtune.tuning.guarded_trainer import Guarded, guard_trainer
from sealtune.tuning.regimes import require_guardable
from sealtune.tuning.sft_config import total_steps
from sealtune.tuning.train import guard_settings

if TYPE_CHECKING:
    from trl import SFTTrainer


def guard(trainer: SFTTrainer, safe: list[dict[str, Any]], settings: Mapping[str, Any]) -> None:
    """Guard a training.

    Args:
        trainer: TRL's SFTTrainer, whose model is still the start model.
        safe: The safe set, as in ``safe_datasets``.
        settings: Further keys of the config.

    Raises:
        UserError: The trainer cannot be guarded, or settings or rows cannot be used.
    """
    from trl import SFTTrainer

    if not isinstance(trainer, SFTTrainer) or isinstance(trainer, Guarded):
        problem = "is guarded already" if isinstance(trainer, Guarded) else "is no SFTTrainer of TRL"
        raise UserError(f"guard: the trainer, a {type(trainer).__name__}, {problem}")
    config = _config(trainer, safe, settings)
    require_guardable(config)
    inputs = RunInputs(config, tokenizer=trainer.processing_class, model_config=trainer.model.config)
    rows = guard_rows(inputs)
    if rows is not None and config.tune.guard != "off":
        guard_trainer(trainer, rows, guard_settings(config), total_steps(config.tune, _length(trainer)))


def _config(trainer: SFTTrainer, safe: list[dict[str, Any]], settings: Mapping[str, Any]) -> Config:
    """What the trainer knows, and the settings, which precede."""
    args, model = trainer.args, trainer.model
    names = ("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps")
    tune = {name: getattr(args, name) for name in names} | {"use_peft": hasattr(model, "peft_config")}
    known = {"model_name_or_path": model.config._name_or_path, "seed": args.seed, "safe_datasets": safe}
    known |= {"max_length": args.max_length} if args.max_length else {}
    return build_config({**known, **settings, "tune": tune | dict(settings.get("tune", {}))}, "settings")


def _length(trainer: SFTTrainer) -> int:
    """Rows of the trainer's dataset; 0 where ``max_steps`` alone counts. Raises UserError if neither is known."""
    try:
        return len(trainer.train_dataset)
    except TypeError:
        if trainer.args.max_steps > 0:
            return 0
        raise UserError("guard: the trainer's dataset is a stream without a length; set max_steps") from None
