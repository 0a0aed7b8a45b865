"""The settings of a run's tuning in the names of transformers, which other trainers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealtune.pipeline.export_job import Job
from sealtune.tuning.sft_config import total_steps


def trainer_settings(job: Job, examples: int) -> dict[str, Any]:
    """The arguments of transformers' trainer for training on this number of rows in one process."""
    tune = job.config.tune
    names = (
        *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"),
        *("gradient_checkpointing", "learning_rate", "weight_decay", "max_grad_norm", "lr_scheduler_type"),
        "logging_steps",
    )
    return {name: getattr(tune, name) for name in names} | {
        "warmup_steps": round(tune.warmup_ratio * total_steps(tune, examples)),
        "seed": job.config.seed,
        "report_to": tune.report_to or "none",
        "save_strategy": "no",
    }


def precision(job: Job) -> dict[str, bool]:
    """bf16 and fp16: a full model computes in autocast, an adapter in the dtype of its base."""
    full = not job.config.tune.use_peft
    return {"bf16": full and job.dtype == "bfloat16", "fp16": full and job.dtype == "float16"}


def model_settings(job: Job) -> dict[str, Any]:
    """The arguments of ``from_pretrained`` that are not the model's defaults, without its quantisation."""
    config = job.config
    found = {
        "revision": config.model_revision,
        "attn_implementation": config.attn_implementation,
        "trust_remote_code": config.trust_remote_code or None,
    }
    return {"dtype": job.dtype, **{name: value for name, value in found.items() if value is not None}}


def alpha_notes(job: Job) -> list[str]:
    """What to say if the tool wants a whole number for ``lora_alpha``, and it is none."""
    alpha = job.config.tune.lora_alpha
    return [f"lora_alpha is {round(alpha)} in place of {alpha:g}: the tool takes whole numbers"] if alpha % 1 else []


def as_arguments(values: Mapping[str, Any], indent: int = 4) -> str:
    """Python source of keyword arguments, one on a line. Texts are literals: nothing in them is executed."""
    return "".join(f"{' ' * indent}{name}={value!r},\n" for name, value in values.items())
