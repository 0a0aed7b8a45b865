"""How the processes of a launch share the tuned model: one class per distribution regime."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from sealtune.core import distributed
from sealtune.core.config import Config
from sealtune.core.errors import UserError
from sealtune.models import sharding
from sealtune.models.adapters import lora_config, sharded_adapter
from sealtune.models.load import load_model
from sealtune.models.target_modules import log_targets

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from trl import SFTTrainer


class DataParallel:
    """One process, or several with the full model in each (DDP, ZeRO up to stage 2)."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def prepare(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model to give to the trainer."""
        return model

    def peft_config(self, model: PreTrainedModel) -> Any:
        """The adapter that the trainer adds to the model; None for none."""
        if not self.config.tune.use_peft:
            return None
        log_targets(model, self.config.tune)
        return lora_config(self.config.tune, model)

    def training(self) -> AbstractContextManager[None]:
        """The context to train in."""
        return nullcontext()

    def gather(self, trainer: SFTTrainer) -> PreTrainedModel:
        """The tuned model, with full weights in the main process. All processes call this together."""
        model: PreTrainedModel = trainer.model
        return model


class ShardedModel(DataParallel):
    """A full model, sharded by the trainer (FSDP)."""

    def gather(self, trainer: SFTTrainer) -> PreTrainedModel:
        """See ``DataParallel.gather``."""
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        model: PreTrainedModel = trainer.model
        if distributed.is_main_process():
            model.load_state_dict(weights, assign=True, strict=False)
        return model


class Zero3(ShardedModel):
    """An adapter or a full model, sharded by DeepSpeed (ZeRO-3)."""

    def gather(self, trainer: SFTTrainer) -> PreTrainedModel:
        """See ``DataParallel.gather``."""
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        model = super().gather(trainer)
        unset_hf_deepspeed_config()  # otherwise models that are loaded later would be sharded too
        return model


class ShardedBase(DataParallel):
    """An adapter, replicated in all processes, on a base that is sharded as for ranking (FSDP)."""

    def prepare(self, model: PreTrainedModel) -> PreTrainedModel:
        """Add the adapter and shard the base."""
        adapted: PreTrainedModel = sharded_adapter(model, self.config.tune, self.config.seed)
        # DDP must not synchronize shards: they differ between the processes.
        adapted._ddp_params_and_buffers_to_ignore = sharding.sharded_names(adapted)
        return adapted

    def peft_config(self, model: PreTrainedModel) -> Any:
        """None: ``prepare`` has added the adapter."""
        return None

    def training(self) -> AbstractContextManager[None]:
        """Accelerate must not shard the base again."""
        return sharding.without_accelerate_fsdp()

    def gather(self, trainer: SFTTrainer) -> PreTrainedModel:
        """The adapter; if it will be merged, on the full base, which the main process loads again."""
        from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

        adapted: PreTrainedModel = trainer.model
        if not (self.config.tune.merge and distributed.is_main_process()):
            return adapted
        base = load_model(self.config)
        model: PreTrainedModel = get_peft_model(base, lora_config(self.config.tune, base))
        set_peft_model_state_dict(model, get_peft_model_state_dict(adapted))
        return model


def choose_regime(config: Config) -> DataParallel:
    """The regime that the launcher and the config request."""
    if sharding.uses_zero3():
        return Zero3(config)
    if not sharding.uses_fsdp():
        return DataParallel(config)
    return ShardedBase(config) if config.tune.use_peft else ShardedModel(config)


def require_guardable(config: Config) -> None:
    """Raise UserError if the guard is wanted, and the launch shards the weights that are trained."""
    if config.tune.guard != "off" and isinstance(choose_regime(config), ShardedModel):
        raise UserError(
            "tune.guard: not if DeepSpeed or FSDP shards the weights that are trained; set it to off, or train an "
            "adapter, or use --accelerate_config multi_gpu"
        )
