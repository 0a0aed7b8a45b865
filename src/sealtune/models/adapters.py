"""Players on language models: LoRA adapters on one frozen base, or full models.

Two adapters share all weights of the base, so Algorithm 1 needs little more memory than Algorithm 2.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sealtune.core import distributed
from sealtune.core.config import LoraBlock
from sealtune.core.errors import RunError, UserError
from sealtune.data.batches import Batch, Padded
from sealtune.models import sharding
from sealtune.models.causal_lm import CausalLM, decoder_blocks
from sealtune.models.quantised import require_trainable
from sealtune.models.state_dict import check_shapes, strip_prefix
from sealtune.models.target_modules import has_transposed, log_targets, target_modules

if TYPE_CHECKING:
    from transformers import PreTrainedModel


MAX_SKIPPED_STEPS = 3
"""Consecutive steps that may be skipped because the gradient is not finite; a finite loss can have such a gradient."""


class Player:
    """Trainable parameters of a language model, with their optimizer.

    Attributes:
        model: The language model that the parameters belong to.
        parameters: What is trained.
        micro_batch: Maximum number of rows per forward pass in one process.
        activate: Makes the model use these parameters, and not those of another player.
        autocast: The dtype to compute in; None for the dtype of the weights.
    """

    def __init__(
        self,
        model: CausalLM,
        parameters: Iterable[nn.Parameter],
        settings: LoraBlock,
        activate: Callable[[], None] = lambda: None,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.parameters = list(parameters)
        self.micro_batch = settings.per_device_train_batch_size
        self.max_grad_norm = settings.max_grad_norm
        self.activate = activate
        self.autocast = autocast
        self.skipped_steps = 0
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def learn(self, batch: Batch, weights: Tensor) -> Tensor:
        """Accumulate the gradient of (1/B) sum_i weights_i l_i, one micro-batch at a time.

        If all weights are zero there is no backward pass. Rows whose loss is not finite add nothing to the gradient.

        Args:
            batch: B rows.
            weights: Weights (B,), on the CPU.

        Returns:
            l_i, (B,), detached, float64 on the CPU, the same in all processes.
        """
        self.activate()
        losses = torch.zeros(len(batch.rows), dtype=torch.float64)
        backward = bool(weights.any())
        micro_batches = list(batch.split(self.micro_batch_for(len(batch.rows))))
        for micro_batch, counts in distributed.split_between_processes(micro_batches):
            coefficients = weights[micro_batch.indices] / len(batch.rows) * counts
            found = self._accumulate(micro_batch, coefficients, backward=backward)
            if counts:
                losses[micro_batch.indices] = found.cpu().double()
        return distributed.all_reduce_sum(losses)

    def _accumulate(self, micro_batch: Padded, coefficients: Tensor, *, backward: bool) -> Tensor:
        """Losses (b,) of a micro-batch, detached; accumulates the gradient of sum_i coefficients_i l_i."""
        with torch.set_grad_enabled(backward), self._precision():
            losses = self.model.losses(micro_batch.tokens, micro_batch.mask)
        found = losses.detach()
        if not backward:
            return found
        finite = found.isfinite()
        if _any_non_finite(finite):  # one such row would spoil the gradient of all: repeat the pass without it
            keep = finite.cpu()[:, None]
            with self._precision():
                losses = self.model.losses(micro_batch.tokens * keep, micro_batch.mask & keep)
        (losses * coefficients.to(losses)).sum().backward()  # type: ignore[no-untyped-call]
        return found

    def micro_batch_for(self, rows: int) -> int:
        """Rows per forward pass for a batch of this size: fewer than ``micro_batch`` if all processes get work then."""
        return min(self.micro_batch, -(-rows // distributed.num_processes()))

    def descend(self) -> None:
        """One AdamW step on the accumulated gradient, clipped; skipped if the gradient is not finite.

        Raises:
            UserError: The first gradient is zero.
            RunError: More than ``MAX_SKIPPED_STEPS`` consecutive gradients are not finite.
        """
        distributed.all_reduce_gradients(self.parameters)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm))
        if not self.optimizer.state and norm == 0:
            raise UserError("no gradient reaches the trained weights: these layers, or this base, cannot be trained")
        self.skipped_steps = 0 if math.isfinite(norm) else self.skipped_steps + 1
        if self.skipped_steps > MAX_SKIPPED_STEPS:
            raise RunError(
                f"ranking stopped: {self.skipped_steps} consecutive gradients are not finite; lower rank.learning_rate"
            )
        if not self.skipped_steps:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast in (None, torch.float32):
            return contextlib.nullcontext()
        return torch.autocast(self.model.device.type, dtype=self.autocast)

    def state_dict(self) -> dict[str, Tensor]:
        """The parameters and the optimizer's moments."""
        state = {f"parameter.{i}": p.detach() for i, p in enumerate(self.parameters)}
        for i, p in enumerate(self.parameters):
            state |= {f"optimizer.{i}.{name}": value for name, value in self.optimizer.state.get(p, {}).items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned. Raises ValueError if it does not fit."""
        check_shapes(state, {f"parameter.{i}": p for i, p in enumerate(self.parameters)})
        for i, p in enumerate(self.parameters):
            p.data.copy_(state[f"parameter.{i}"])
            self._load_moments(p, strip_prefix(f"optimizer.{i}.", state))

    def _load_moments(self, parameter: nn.Parameter, moments: dict[str, Tensor]) -> None:
        check_shapes(moments, {name: parameter for name, value in moments.items() if value.dim()})
        if moments:
            self.optimizer.state[parameter] = {
                name: value.clone() if name == "step" else value.to(parameter.device, copy=True)
                for name, value in moments.items()
            }


def lora_config(settings: LoraBlock, model: PreTrainedModel) -> Any:
    """peft's LoraConfig for these settings on this model. Raises UserError if they name no layer of it."""
    from peft import LoraConfig

    targets = target_modules(model, settings)
    return LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets,
        fan_in_fan_out=has_transposed(model, targets),
        task_type="CAUSAL_LM",
    )


def lora_players(model: PreTrainedModel, settings: LoraBlock, names: Iterable[str], seed: int) -> dict[str, Player]:
    """Players as LoRA adapters on one frozen base. All start with the same weights, so their gap starts at zero.

    Raises:
        UserError: ``lora_target_modules`` names no layer of the model, or the output layer.
    """
    _freeze(model, settings)
    log_targets(model, settings)
    first, *others = names
    configs = {name: lora_config(settings, model) for name in others}  # PEFT renames the layers that it adapts
    peft_model = _add_adapter(model, settings, seed, first)
    for name in others:
        peft_model.add_adapter(name, configs[name])
        _copy_adapter(peft_model, first, name)
    if hasattr(model.get_output_embeddings(), "base_layer"):
        raise UserError("lora_target_modules: the output layer cannot have an adapter; name layers of the blocks")
    if sharding.shards_base():
        _shard_blocks(model)
    causal_lm = CausalLM(model)
    return {name: _lora_player(peft_model, name, causal_lm, settings) for name in (first, *others)}


def sharded_adapter(model: PreTrainedModel, settings: LoraBlock, seed: int) -> Any:
    """A PeftModel with one adapter, replicated in all processes, on a base that is sharded over them.

    Raises:
        UserError: ``lora_target_modules`` names no layer of the model.
    """
    log_targets(model, settings)
    peft_model = _add_adapter(model, settings, seed)
    _shard_blocks(model)
    return peft_model


def full_players(
    model: PreTrainedModel, settings: LoraBlock, names: Iterable[str], autocast: torch.dtype
) -> dict[str, Player]:
    """Players as full models, each a copy of ``model`` in float32 that computes in ``autocast``.

    Raises:
        UserError: The model is sharded or quantised.
    """
    require_trainable(model, "rank.use_peft")
    if sharding.shards_base():
        raise UserError("rank.use_peft: a full model cannot be sharded for ranking; set rank.use_peft to true")
    _freeze(model, settings)
    players = {}
    for i, name in enumerate(names):
        own = model if i == 0 else copy.deepcopy(model)
        own.requires_grad_(True)
        players[name] = Player(CausalLM(own), own.parameters(), settings, autocast=autocast)
    return players


def _add_adapter(model: PreTrainedModel, settings: LoraBlock, seed: int, name: str = "default") -> Any:
    from peft import get_peft_model

    config = lora_config(settings, model)
    torch.manual_seed(seed)
    try:
        return get_peft_model(model, config, adapter_name=name)
    except ValueError as error:
        raise UserError(f"lora_target_modules: {error}") from None


def _shard_blocks(model: PreTrainedModel) -> None:
    adapters = [p for name, p in model.named_parameters() if ".lora_" in name]
    sharding.shard(model, decoder_blocks(model), adapters)


def _any_non_finite(finite: Tensor) -> bool:
    """Whether any of (b,) is false, in any process if the base is sharded: all must run the same forward passes."""
    found = not bool(finite.all())
    return bool(distributed.all_reduce_max(found)) if sharding.shards_base() else found


def _freeze(model: PreTrainedModel, settings: LoraBlock) -> None:
    """Freeze the weights; enable gradient checkpointing and training mode as far as the settings need them."""
    model.requires_grad_(False)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # Evaluation mode if possible, for losses without noise. But checkpointing works in training mode only, and in
    # evaluation mode bitsandbytes packs 4-bit weights on a CPU into a form that passes no gradient.
    four_bit = getattr(model, "is_loaded_in_4bit", False)
    model.train(settings.gradient_checkpointing or settings.lora_dropout > 0 or four_bit)


def _lora_player(peft_model: Any, name: str, causal_lm: CausalLM, settings: LoraBlock) -> Player:
    parameters = [p for n, p in peft_model.named_parameters() if f".{name}." in f"{n}."]
    return Player(causal_lm, parameters, settings, activate=lambda: peft_model.set_adapter(name))


def _copy_adapter(peft_model: Any, source: str, target: str) -> None:
    parameters = dict(peft_model.named_parameters())
    for name, parameter in parameters.items():
        if f".{target}." in f"{name}.":
            counterpart = f"{name}.".replace(f".{target}.", f".{source}.").removesuffix(".")
            parameter.data.copy_(parameters[counterpart].data)
