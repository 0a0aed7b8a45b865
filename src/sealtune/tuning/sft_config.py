"""The trainer's settings, from the config's ``tune`` block."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sealtune.core import distributed
from sealtune.core.config import Config, TuneConfig
from sealtune.core.errors import UserError
from sealtune.models.load import compute_dtype

if TYPE_CHECKING:
    from trl import SFTConfig


def effective_batch_size(settings: TuneConfig | SFTConfig) -> int:
    """Rows per optimizer step, in all processes together."""
    per_process = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    return int(per_process * distributed.num_processes())


def keep_batch_size(config: Config, batch_size: int) -> Config:
    """The config whose gradient accumulation gives this effective batch size, as in the checkpoint to resume from.

    Raises:
        UserError: It is not possible with this number of processes.
    """
    settings, processes = config.tune, distributed.num_processes()
    micro_batch = settings.per_device_train_batch_size * processes
    if batch_size < 1 or batch_size % micro_batch:
        raise UserError(
            f"tune: the checkpoint was saved with {batch_size} rows per step, which is not a multiple of {processes} "
            f"processes x {settings.per_device_train_batch_size} rows; resume with another number of processes"
        )
    tune = settings.model_copy(update={"gradient_accumulation_steps": batch_size // micro_batch})
    return config.model_copy(update={"tune": tune})


def sft_config(config: Config, output_dir: str, rows: int) -> SFTConfig:
    """TRL's settings for training on this number of rows.

    Raises:
        UserError: The trainer refuses a setting.
    """
    from trl import SFTConfig

    settings = config.tune
    try:
        arguments = SFTConfig(
            **_data_settings(),
            **_precision(config),
            output_dir=output_dir,
            num_train_epochs=settings.num_train_epochs,
            max_steps=settings.max_steps,
            per_device_train_batch_size=settings.per_device_train_batch_size,
            gradient_accumulation_steps=settings.gradient_accumulation_steps,
            gradient_checkpointing=settings.gradient_checkpointing,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            lr_scheduler_type=settings.lr_scheduler_type,
            warmup_steps=round(settings.warmup_ratio * total_steps(settings, rows)),
            logging_steps=settings.logging_steps,
            logging_nan_inf_filter=False,
            include_num_input_tokens_seen="non_padding",
            report_to=settings.report_to or "none",
            save_strategy="no",
            disable_tqdm=True,
            seed=config.seed,
            ddp_find_unused_parameters=False if distributed.num_processes() > 1 else None,
        )
    except (ValueError, ImportError, RuntimeError) as error:
        raise UserError(f"tune: {' '.join(str(error).split())}") from None
    if arguments.n_gpu > 1:  # without a launcher, the trainer would use DataParallel on all GPUs
        arguments._n_gpu = 1
    return arguments


def _data_settings() -> dict[str, Any]:
    """The rows are tokenized; they are grouped by length, which transformers before 5.2 requests by another name."""
    from trl import SFTConfig

    renamed = "train_sampling_strategy" in SFTConfig.__dataclass_fields__
    return {
        **({"train_sampling_strategy": "group_by_length"} if renamed else {"group_by_length": True}),
        "max_length": None,
        "packing": False,
        "remove_unused_columns": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }


def _precision(config: Config) -> dict[str, Any]:
    """Full models have float32 weights and compute in autocast; adapters compute in the dtype of the base."""
    import torch

    dtype, full = compute_dtype(config), not config.tune.use_peft
    accelerated = torch.accelerator.is_available()
    return {
        "bf16": full and dtype == torch.bfloat16,
        "fp16": full and dtype == torch.float16,
        "use_cpu": not accelerated,
        "dataloader_pin_memory": accelerated,
    }


def total_steps(settings: TuneConfig, rows: int) -> int:
    """Optimizer steps of a training on this number of rows."""
    if settings.max_steps > 0:
        return settings.max_steps
    return math.ceil(-(-rows // effective_batch_size(settings)) * settings.num_train_epochs)


def guard_batch_size(settings: TuneConfig) -> int:
    """Safe rows per step in all processes together, as many in each process, and two at least."""
    processes = distributed.num_processes()
    requested = settings.guard_batch_size or max(2, effective_batch_size(settings) // 4)
    return -(-requested // processes) * processes
