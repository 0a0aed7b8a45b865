"""The final fine-tuning: TRL's SFTTrainer on the same token ids and mask that ranking used."""

from __future__ import annotations

import math
import tempfile
from collections import deque
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from sealtune.core import distributed
from sealtune.core.config import Config, TuneConfig
from sealtune.core.errors import RunError, UserError
from sealtune.data.encoded import Encoded
from sealtune.models import sharding
from sealtune.models.adapters import lora_config, sharded_adapter
from sealtune.models.load import compute_dtype, load_model
from sealtune.models.state_dict import restoring

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTTrainer

    from sealtune.core.checkpoints import Checkpoint, Checkpointer
    from sealtune.core.console import Advance

TOGETHER = 2**14
"""Rows that are laid out for the trainer at once."""


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Encoded,
    config: Config,
    advance: Advance,
    trainer_class: type[SFTTrainer] | None = None,
    checkpointer: Checkpointer | None = None,
    resume: Checkpoint | None = None,
) -> tuple[PreTrainedModel, list[dict[str, Any]]]:
    """The tuned model (a PeftModel where ``use_peft``) and the trainer's log; ``trainer_class`` for comparisons.

    With ``checkpointer`` it saves checkpoints and can be stopped; it goes on from ``resume``, if that is given.

    Raises:
        UserError: a setting that the trainer or peft refuses, or a batch that these processes cannot make.
        StoppedError: it was asked to stop, and saved a checkpoint.
        RunError: the loss became NaN or infinite.
    """
    if resume is not None:
        with restoring():
            batch = int(resume.rest["batch"])
        config = keeping_batch(config, batch)
    settings = config.tune
    spread = settings.use_peft and sharding.uses_fsdp()
    if spread:
        model = sharded_adapter(model, settings, config.seed)
    with (
        tempfile.TemporaryDirectory() as scratch,  # the trainer wants a folder; nothing of ours is left in it
        sharding.base_already_sharded() if spread else nullcontext(),
    ):
        trainer = _make_trainer(model, tokenizer, rows, config, advance, trainer_class, scratch)
        if checkpointer is None:
            trainer.train()
        else:
            trainer.train_guarded(checkpointer, resume)
    if not spread:
        _gather(trainer)
    if sharding.uses_zero3():  # models that are loaded later would be spread too, by all processes together
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
    if not all(bool(p.isfinite().all()) for p in trainer.model.parameters() if p.requires_grad):
        raise RunError("tuning ended with weights that are not finite; lower tune.learning_rate")
    model = _on_whole_base(trainer.model, config) if spread and settings.merge else trainer.model
    return model, [record for record in trainer.state.log_history if "loss" in record]


def _make_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Encoded,
    config: Config,
    advance: Advance,
    trainer_class: type[SFTTrainer] | None,
    scratch: str,
) -> Any:
    """The trainer, ready to begin; it adds an adapter where one is wanted and the model has none yet."""
    from transformers import PrinterCallback

    from sealtune.tuning.trainer import ResponseTrainer

    settings = config.tune
    collator = _RememberingCollator(tokenizer, rows, settings)
    wants_adapter = settings.use_peft and not hasattr(model, "peft_config")
    try:
        trainer = (trainer_class or ResponseTrainer)(
            model=model,
            args=_arguments(config, scratch, len(rows)),
            train_dataset=to_dataset(rows),
            processing_class=tokenizer,
            data_collator=collator,
            peft_config=lora_config(settings) if wants_adapter else None,
            callbacks=[_reporter(advance, collator)],
        )
    except (ValueError, ImportError, RuntimeError) as error:
        raise UserError(f"tune: {' '.join(str(error).split())}") from None
    trainer.remove_callback(PrinterCallback)  # our own progress says it
    trainer.rows = rows
    if parts := sharding.sharded_names(trainer.model):  # they are not alike in the processes, and not to be made so
        trainer.model._ddp_params_and_buffers_to_ignore = parts
    return trainer


def keeping_batch(config: Config, rows: int) -> Config:
    """The config with which these processes take steps of so many rows together: as a checkpoint has had them.

    Raises:
        UserError: they cannot.
    """
    settings = config.tune
    micro_batch = settings.per_device_train_batch_size * distributed.num_processes()
    if rows < 1 or rows % micro_batch:
        raise UserError(
            f"tune: the checkpoint has steps of {rows} rows, which {distributed.num_processes()} processes cannot share by "
            f"{settings.per_device_train_batch_size} rows each; go on with another number of processes"
        )
    same = settings.model_copy(update={"gradient_accumulation_steps": rows // micro_batch})
    return config.model_copy(update={"tune": same})


def _gather(trainer: SFTTrainer) -> None:
    """Weights that the trainer has spread (FSDP of whole models, ZeRO-3) are made whole in the first process."""
    if not sharding.shards_base():
        return
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if distributed.is_main_process():
        trainer.model.load_state_dict(weights, assign=True, strict=False)


def _on_whole_base(adapted: PreTrainedModel, config: Config) -> PreTrainedModel:
    """The adapter on the untouched base, read once more in the first process, so that the two can be merged."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    if not distributed.is_main_process():
        return adapted
    whole = get_peft_model(load_model(config), lora_config(config.tune))
    set_peft_model_state_dict(whole, get_peft_model_state_dict(adapted))
    return whole


def to_dataset(rows: Encoded) -> Dataset:
    """The rows as columns ``input_ids``, ``labels`` (-100 where nothing is to be learned) and ``row``, the position."""
    import pyarrow as pa
    from datasets import Dataset
    from datasets.table import InMemoryTable

    def columns(start: int) -> pa.RecordBatch:
        block = rows.block(start, min(start + TOGETHER, len(rows)))
        labels = np.where(block.mask, block.tokens, np.int32(-100))
        lists = [pa.ListArray.from_arrays(block.bounds.astype(np.int32), values) for values in (block.tokens, labels)]
        return pa.record_batch([*lists, np.arange(start, start + len(block))], names=["input_ids", "labels", "row"])

    batches = [columns(start) for start in range(0, len(rows), TOGETHER)]
    return Dataset(InMemoryTable(pa.Table.from_batches(batches)))


class _RememberingCollator:
    """TRL's collator, with the ids of the batches since the last log: a loss that is not finite comes from them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rows: Encoded, settings: TuneConfig) -> None:
        from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

        self.collate = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)
        self.rows = rows
        # One batch more than a log covers, since the loader reads one ahead.
        self.recent: deque[list[str]] = deque(maxlen=settings.logging_steps * settings.gradient_accumulation_steps + 1)

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        self.recent.append([self.rows.ids[example["row"]] for example in examples])
        batch: dict[str, Any] = self.collate(
            [{name: example[name] for name in ("input_ids", "labels")} for example in examples]
        )
        return batch

    def ids(self) -> str:
        """The ids, for a message."""
        return ", ".join(row_id for batch in self.recent for row_id in batch)


def _arguments(config: Config, scratch: str, n: int) -> Any:
    import torch
    from trl import SFTConfig

    settings, dtype, accelerated = config.tune, compute_dtype(config), torch.accelerator.is_available()
    whole = not settings.use_peft  # whole models are float32 and compute in autocast; adapters follow the base
    batch = settings.per_device_train_batch_size * settings.gradient_accumulation_steps * distributed.num_processes()
    steps_an_epoch = -(-n // batch)
    total = settings.max_steps if settings.max_steps > 0 else steps_an_epoch * settings.num_train_epochs
    # transformers before 5.2 knows grouping by length under another name.
    grouped: dict[str, Any] = {"train_sampling_strategy": "group_by_length"}
    if "train_sampling_strategy" not in SFTConfig.__dataclass_fields__:
        grouped = {"group_by_length": True}
    arguments = SFTConfig(
        **grouped,
        output_dir=scratch,
        num_train_epochs=settings.num_train_epochs,
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        gradient_checkpointing=settings.gradient_checkpointing,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=round(settings.warmup_ratio * total),
        logging_steps=settings.logging_steps,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        report_to=settings.report_to or "none",
        save_strategy="no",
        disable_tqdm=True,
        seed=config.seed,
        bf16=whole and dtype == torch.bfloat16,
        fp16=whole and dtype == torch.float16,
        use_cpu=not accelerated,
        dataloader_pin_memory=accelerated,
        max_length=None,
        packing=False,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False if distributed.num_processes() > 1 else None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    if arguments.n_gpu > 1:  # without a launcher the trainer would spread each batch over all GPUs by DataParallel
        arguments._n_gpu = 1
    return arguments


def _reporter(advance: Advance, collator: _RememberingCollator) -> Any:
    """A callback that shows progress and stops on a loss that is not finite."""
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.seen, self.step = int(state.num_input_tokens_seen), state.global_step  # not 0 after a resume

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if not logs or "loss" not in logs:
                return
            loss = float(logs["loss"])
            if not math.isfinite(loss):
                raise RunError(
                    f"tuning stopped at step {state.global_step}: the loss is {loss}; rows among {collator.ids()}; "
                    "lower tune.learning_rate or look at these rows"
                )
            tokens = int(state.num_input_tokens_seen)
            batch = args.train_batch_size * args.gradient_accumulation_steps * distributed.num_processes()
            rows = (state.global_step - self.step) * batch
            advance(state.global_step, state.max_steps, rows, tokens - self.seen, f"loss {loss:.3f}")
            self.seen, self.step = tokens, state.global_step

    return Reporter()
