"""Players on language models: named LoRA adapters on one frozen base, or full models.

Two adapters share every weight of the base, so Algorithm 1 costs little more memory than Algorithm 2.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sealtune import processes
from sealtune.config import LoraBlock
from sealtune.data.batches import Batch, Padded, longest_first
from sealtune.fitting import require_alike
from sealtune.losses import Head, row_losses
from sealtune.records import Encoded, IntArray, RunError, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


MISSES = 3
"""Steps in turn that may be left out because their gradient is not finite (a loss can be finite and its slope not)."""


class LanguageModel:
    """The two halves of a causal language model: the body that makes hidden states, and the head that reads them."""

    def __init__(self, model: PreTrainedModel) -> None:
        if hasattr(model, "get_base_model"):  # a PeftModel: its adapters lie within the layers of the base
            model = model.get_base_model()
        self.body: nn.Module = model.base_model
        self.head = output_head(model)
        self.blocks = _blocks(model)
        self.device: torch.device = model.device
        _check_halves(model, self)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Last hidden states (B, T, D) of token ids (B, T) that are padded on the right."""
        states: Tensor = self.body(input_ids=tokens, use_cache=False).last_hidden_state
        return states

    @torch.no_grad()
    def look(self, piece: Padded) -> tuple[Tensor, Tensor, Tensor]:
        """l_i, (B,), mean hidden states of the prompts and of the responses, (B, D): one forward pass, on the CPU.

        The states are those half-way up the body: the last layers serve the next token, the first ones the words. The
        prompt is what stands before the first learned token.
        """
        tokens, mask = piece.tokens.to(self.device), piece.mask.to(self.device)
        middle = self.blocks[len(self.blocks) // 2]
        with _inputs_of(middle) as seen:
            losses = row_losses(self.hidden(tokens), self.head, tokens, mask)
        prompts, responses = _mean_states(seen[0], mask.cumsum(1) == 0), _mean_states(seen[0], mask)
        return losses.cpu().double(), prompts.cpu(), responses.cpu()

    def losses(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """l_i, (B,), of token ids and masks (B, T) that lie on any device."""
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        return row_losses(self.hidden(tokens), self.head, tokens, mask)


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
        self.missed = 0
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
        for piece, counts in processes.shares(list(batch.split(self.share_of(len(batch.rows))))):
            part = self._learn(piece, weights[piece.places] / len(batch.rows) * counts, learns=learns)
            if counts:
                losses[piece.places] = part.cpu().double()
        return processes.total(losses)

    def _learn(self, piece: Padded, share: Tensor, *, learns: bool) -> Tensor:
        """Losses (b,) of rows that fit the memory; rows whose loss is not finite are blanked and passed again, as they
        would spoil the gradient of all.
        """
        with torch.set_grad_enabled(learns), self._precision():
            losses = self.model.losses(piece.tokens, piece.mask)
        told = losses.detach()
        if not learns:
            return told
        fine = told.isfinite()
        if _some_are_bad(fine):
            rows = fine.cpu()[:, None]
            with self._precision():
                losses = self.model.losses(piece.tokens * rows, piece.mask & rows)
        (losses * share.to(losses)).sum().backward()  # type: ignore[no-untyped-call]
        return told

    def share_of(self, rows: int) -> int:
        """How many of these rows go through the model at once: a micro-batch, or less where all get some of them."""
        return min(self.micro_batch, -(-rows // processes.count()))

    def descend(self) -> None:
        """One clipped AdamW step on what ``learn`` gathered, in all processes; none where that is not finite.

        Raises:
            UserError: the first gradient is zero.
            RunError: several gradients in turn are not finite.
        """
        processes.add_gradients(self.parameters)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm))
        if not self.optimizer.state and norm == 0:
            raise UserError("no gradient reaches the trained weights: these layers, or this base, cannot be trained")
        self.missed = 0 if math.isfinite(norm) else self.missed + 1
        if self.missed > MISSES:
            raise RunError(f"ranking stopped: {self.missed} gradients in turn are not finite; lower rank.learning_rate")
        if not self.missed:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast in (None, torch.float32):
            return contextlib.nullcontext()
        return torch.autocast(self.model.device.type, dtype=self.autocast)

    def state(self) -> dict[str, Tensor]:
        """Parameters and the optimizer's moments, as a resumed run needs them."""
        state = {f"parameter.{i}": p.detach() for i, p in enumerate(self.parameters)}
        for i, p in enumerate(self.parameters):
            state |= {f"optimizer.{i}.{name}": value for name, value in self.optimizer.state.get(p, {}).items()}
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave. Raises ValueError where it does not fit."""
        require_alike(state, {f"parameter.{i}": p for i, p in enumerate(self.parameters)})
        for i, p in enumerate(self.parameters):
            p.data.copy_(state[f"parameter.{i}"])
            prefix = f"optimizer.{i}."
            moments = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            require_alike(moments, {name: p for name, value in moments.items() if value.dim()})
            if moments:
                self.optimizer.state[p] = {
                    name: value.clone() if name == "step" else value.to(p.device, copy=True)
                    for name, value in moments.items()
                }


@torch.no_grad()
def data_set_losses(model: PreTrainedModel, encoded: Encoded, batch_size: int) -> Iterator[tuple[IntArray, Tensor]]:
    """Each row's loss under the model as it stands: (positions, losses float64 on the CPU) batch by batch, which is
    ``batch_size`` rows a process.
    """
    language_model = LanguageModel(model)
    for batch in longest_first(encoded, batch_size * processes.count()):
        losses = torch.zeros(len(batch.rows), dtype=torch.float64)
        for piece, counts in processes.shares(list(batch.split(batch_size))):
            part = language_model.losses(piece.tokens, piece.mask).cpu().double()
            losses[piece.places] = part * counts
        yield batch.rows.numpy(), processes.total(losses)


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
    if processes.shards_base():
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
    if processes.shards_base():
        raise UserError("rank.use_peft: whole models cannot be ranked with while the base is sharded; use adapters")
    _prepare(model, settings)
    players = {}
    for i, name in enumerate(names):
        own = model if i == 0 else copy.deepcopy(model)
        own.requires_grad_(True)
        players[name] = Player(LanguageModel(own), list(own.parameters()), settings, autocast=autocast)
    return players


def output_head(model: PreTrainedModel) -> Head:
    """The output layer of a transformers model, with the scale or soft cap of its family."""
    layer = model.get_output_embeddings()
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0
    scale /= getattr(config, "logits_scaling", None) or 1.0
    return Head(layer.weight, layer.bias, scale, getattr(config, "final_logit_softcapping", None))


def _shard(model: PreTrainedModel) -> None:
    """Spread the blocks of a model with adapters; the adapters stay whole."""
    adapters = [p for name, p in model.named_parameters() if ".lora_" in name]
    processes.shard(model, _blocks(model), adapters)


def _some_are_bad(fine: Tensor) -> bool:
    """Whether any of (b,) is false; with a sharded base, in any process, since all must make the same passes."""
    bad = not bool(fine.all())
    return bool(processes.agreed(bad)) if processes.shards_base() else bad


def _blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder blocks, in their order."""
    wanted = model.config.get_text_config().num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            return module
    raise UserError(f"{type(model).__name__}: no list of {wanted} decoder blocks; this family is not supported")


@contextlib.contextmanager
def _inputs_of(block: nn.Module) -> Iterator[list[Tensor]]:
    """What goes into a block while the context lasts: hidden states (B, T, D). No others are kept alive."""
    seen: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    handle = block.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def _mean_states(states: Tensor, mask: Tensor) -> Tensor:
    """Mean of states (B, T, D) where the mask (B, T) is true, (B, D) float32; 0 where it nowhere is."""
    weights = mask / mask.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("bt,btd->bd", weights.float(), states.float())


@torch.no_grad()
def _check_halves(model: PreTrainedModel, halves: LanguageModel) -> None:
    """Refuse a model whose forward does more than body and head: its losses would be silently wrong."""
    tokens = torch.arange(1, 5, device=model.device)[None]
    expected = model(input_ids=tokens, use_cache=False).logits.float()
    hidden = halves.hidden(tokens)
    found = halves.head.logits(hidden.to(halves.head.weight.dtype))
    if not torch.allclose(expected, found, rtol=0.05, atol=0.05 * float(expected.abs().max())):
        raise UserError(f"{type(model).__name__}: its logits are not head(body(tokens)); this family is not supported")


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
