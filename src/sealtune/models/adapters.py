"""Players on language models: named LoRA adapters on one frozen base, or full models.

Two adapters share every weight of the base, so Algorithm 1 costs little more memory than Algorithm 2.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sealtune.core import distributed
from sealtune.core.config import LoraBlock
from sealtune.core.errors import RunError, UserError
from sealtune.data.batches import Batch, Padded
from sealtune.models import sharding
from sealtune.models.causal_lm import LanguageModel, decoder_blocks
from sealtune.models.state_dict import check_shapes

if TYPE_CHECKING:
    from transformers import PreTrainedModel


MAX_SKIPPED_STEPS = 3
"""Steps in turn that may be left out because their gradient is not finite (a loss can be finite and its slope not)."""


class Player:
    """Some parameters that learn through a language model. ``activate`` makes the model use them, and no others."""

    def __init__(
        self,
        language_model: LanguageModel,
        parameters: Sequence[nn.Parameter],
        settings: LoraBlock,
        activate: Callable[[], None] = lambda: None,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model = language_model
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
        """Losses (B,) of the rows, detached, in float64 on the CPU; adds the gradient of (1/B) sum_i weights_i l_i.

        The graph of one micro-batch lives at a time. Rows whose weights are all zero cost a forward pass only.
        """
        self.activate()
        losses = torch.zeros(len(batch.rows), dtype=torch.float64)
        learns = bool(weights.any())
        for piece, counts in distributed.split_between_processes(list(batch.split(self.share_of(len(batch.rows))))):
            part = self._learn(piece, weights[piece.places] / len(batch.rows) * counts, learns=learns)
            if counts:
                losses[piece.places] = part.cpu().double()
        return distributed.all_reduce_sum(losses)

    def _learn(self, piece: Padded, share: Tensor, *, learns: bool) -> Tensor:
        """Losses (b,) of rows that fit the memory; rows whose loss is not finite are blanked and passed again, as they
        would spoil the gradient of all.
        """
        with torch.set_grad_enabled(learns), self._precision():
            losses = self.model.losses(piece.tokens, piece.mask)
        told = losses.detach()
        if not learns:
            return told
        finite = told.isfinite()
        if _any_non_finite(finite):
            rows = finite.cpu()[:, None]
            with self._precision():
                losses = self.model.losses(piece.tokens * rows, piece.mask & rows)
        (losses * share.to(losses)).sum().backward()  # type: ignore[no-untyped-call]
        return told

    def share_of(self, rows: int) -> int:
        """How many of these rows go through the model at once: a micro-batch, or less where all get some of them."""
        return min(self.micro_batch, -(-rows // distributed.num_processes()))

    def descend(self) -> None:
        """One clipped AdamW step on what ``learn`` gathered, in all processes; none where that is not finite.

        Raises:
            UserError: the first gradient is zero.
            RunError: several gradients in turn are not finite.
        """
        distributed.all_reduce_gradients(self.parameters)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm))
        if not self.optimizer.state and norm == 0:
            raise UserError("no gradient reaches the trained weights: these layers, or this base, cannot be trained")
        self.skipped_steps = 0 if math.isfinite(norm) else self.skipped_steps + 1
        if self.skipped_steps > MAX_SKIPPED_STEPS:
            raise RunError(
                f"ranking stopped: {self.skipped_steps} gradients in turn are not finite; lower rank.learning_rate"
            )
        if not self.skipped_steps:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast in (None, torch.float32):
            return contextlib.nullcontext()
        return torch.autocast(self.model.device.type, dtype=self.autocast)

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and the optimizer's moments, as a resumed run needs them."""
        state = {f"parameter.{i}": p.detach() for i, p in enumerate(self.parameters)}
        for i, p in enumerate(self.parameters):
            state |= {f"optimizer.{i}.{name}": value for name, value in self.optimizer.state.get(p, {}).items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned. Raises ValueError where it does not fit."""
        check_shapes(state, {f"parameter.{i}": p for i, p in enumerate(self.parameters)})
        for i, p in enumerate(self.parameters):
            p.data.copy_(state[f"parameter.{i}"])
            prefix = f"optimizer.{i}."
            moments = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            check_shapes(moments, {name: p for name, value in moments.items() if value.dim()})
            if moments:
                self.optimizer.state[p] = {
                    name: value.clone() if name == "step" else value.to(p.device, copy=True)
                    for name, value in moments.items()
                }


def lora_config(settings: LoraBlock) -> Any:
    """peft's LoraConfig for these settings."""
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=settings.lora_target_modules,
        task_type="CAUSAL_LM",
    )


def lora_players(model: PreTrainedModel, settings: LoraBlock, names: Iterable[str], seed: int) -> dict[str, Player]:
    """Players as LoRA adapters on one frozen base. They start equal, so their gap starts at zero.

    Raises:
        UserError: ``lora_target_modules`` names no layer of the model.
    """
    from peft import get_peft_model

    lora = lora_config(settings)
    _prepare(model, settings)
    torch.manual_seed(seed)
    first, *others = names
    try:
        adapted = get_peft_model(model, lora, adapter_name=first)
    except ValueError as error:
        raise UserError(f"lora_target_modules: {error}") from None
    for name in others:
        adapted.add_adapter(name, lora)
        _copy_adapter(adapted, first, name)
    if hasattr(model.get_output_embeddings(), "base_layer"):
        raise UserError("lora_target_modules: the output layer cannot be among them; name layers of the blocks")
    if sharding.shards_base():
        _shard(model)
    language_model = LanguageModel(model)
    return {name: _lora_player(adapted, name, language_model, settings) for name in (first, *others)}


def sharded_adapter(model: PreTrainedModel, settings: LoraBlock, seed: int) -> Any:
    """A PeftModel: one adapter, whole in each process, on a base that is spread over all of them."""
    from peft import get_peft_model

    torch.manual_seed(seed)
    try:
        adapted = get_peft_model(model, lora_config(settings))
    except ValueError as error:
        raise UserError(f"lora_target_modules: {error}") from None
    _shard(model)
    return adapted


def full_players(
    model: PreTrainedModel, settings: LoraBlock, names: Iterable[str], autocast: torch.dtype
) -> dict[str, Player]:
    """Players as whole models, each a copy of ``model`` in float32 that computes in ``autocast``."""
    if sharding.shards_base():
        raise UserError("rank.use_peft: whole models cannot be ranked with while the base is sharded; use adapters")
    _prepare(model, settings)
    players = {}
    for i, name in enumerate(names):
        own = model if i == 0 else copy.deepcopy(model)
        own.requires_grad_(True)
        players[name] = Player(LanguageModel(own), list(own.parameters()), settings, autocast=autocast)
    return players


def _shard(model: PreTrainedModel) -> None:
    """Spread the blocks of a model with adapters; the adapters stay whole."""
    adapters = [p for name, p in model.named_parameters() if ".lora_" in name]
    sharding.shard(model, decoder_blocks(model), adapters)


def _any_non_finite(finite: Tensor) -> bool:
    """Whether any of (b,) is false; with a sharded base, in any process, since all must make the same passes."""
    bad = not bool(finite.all())
    return bool(distributed.all_reduce_max(bad)) if sharding.shards_base() else bad


def _prepare(model: PreTrainedModel, settings: LoraBlock) -> None:
    model.requires_grad_(False)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # Evaluation mode where possible: losses without noise. Checkpointing works in training mode alone, and in
    # evaluation mode bitsandbytes packs 4-bit weights for the CPU into a form that no gradient passes.
    four_bit = getattr(model, "is_loaded_in_4bit", False)
    model.train(settings.gradient_checkpointing or settings.lora_dropout > 0 or four_bit)


def _lora_player(adapted: Any, name: str, language_model: LanguageModel, settings: LoraBlock) -> Player:
    return Player(
        language_model,
        [p for n, p in adapted.named_parameters() if f".{name}." in f"{n}."],
        settings,
        activate=lambda: adapted.set_adapter(name),
    )


def _copy_adapter(adapted: Any, source: str, target: str) -> None:
    parameters = dict(adapted.named_parameters())
    for name, parameter in parameters.items():
        if f".{target}." in f"{name}.":
            twin = f"{name}.".replace(f".{target}.", f".{source}.").removesuffix(".")
            parameter.data.copy_(parameters[twin].data)
