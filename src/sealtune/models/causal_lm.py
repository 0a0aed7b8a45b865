"""A causal language model split into body and head, so that logits are computed at response tokens only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sealtune.core import distributed
from sealtune.core.errors import UserError
from sealtune.core.sanitize import excerpt
from sealtune.core.string_array import IntArray
from sealtune.data.batches import Padded, longest_first
from sealtune.data.encoded import Encoded
from sealtune.models.losses import Head, row_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CausalLM:
    """The body of a causal language model, which computes hidden states, and its head, which computes logits.

    Raises:
        UserError: The logits of this model family are not head(body(tokens)).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        if hasattr(model, "get_base_model"):  # a PeftModel, whose adapters are inside the layers of the base
            model = model.get_base_model()
        self.body: nn.Module = model.base_model
        self.head = output_head(model)
        self.blocks = decoder_blocks(model)
        self.device: torch.device = model.device
        self._compiled_body = self.body
        _check_decomposition(model, self)

    def compile(self) -> None:
        """Compile the body for ``losses``: takes minutes once. Raises UserError if this machine cannot compile."""
        try:
            torch.compile(lambda x: x + 1)(torch.zeros(1, device=self.device))
        except Exception as error:
            cause = excerpt(error, 200)
            raise UserError(f"rank.torch_compile: nothing can be compiled on this machine ({cause})") from error
        self._compiled_body = torch.compile(self.body, dynamic=True)  # the length differs between batches

    def hidden_states(self, tokens: Tensor) -> Tensor:
        """Last hidden states (B, T, D) of token ids (B, T), padded on the right."""
        states: Tensor = self._compiled_body(input_ids=tokens, use_cache=False).last_hidden_state
        return states

    def losses(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """l_i, (B,), of token ids and loss masks (B, T) on any device."""
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        return row_losses(self.hidden_states(tokens), self.head, tokens, mask)

    @torch.no_grad()
    def extract_features(self, micro_batch: Padded) -> tuple[Tensor, Tensor, Tensor]:
        """Losses and mean hidden states, from one forward pass.

        The hidden states are the input of the middle block: the last blocks encode the next token, the first ones the
        words. The prompt is everything before the first response token.

        Returns:
            On the CPU: l_i (B,) in float64; the mean hidden states of prompts (B, D) and responses (B, D).
        """
        tokens, mask = micro_batch.tokens.to(self.device), micro_batch.mask.to(self.device)
        middle = self.blocks[len(self.blocks) // 2]
        with _capture_input(middle) as captured:  # not compiled: the hook would force a recompilation every time
            hidden = self.body(input_ids=tokens, use_cache=False).last_hidden_state
        losses = row_losses(hidden, self.head, tokens, mask)
        prompts, responses = _mean_states(captured[0], mask.cumsum(1) == 0), _mean_states(captured[0], mask)
        return losses.cpu().double(), prompts.cpu(), responses.cpu()


@torch.no_grad()
def dataset_losses(model: PreTrainedModel, encoded: Encoded, batch_size: int) -> Iterator[tuple[IntArray, Tensor]]:
    """The loss of every row under the model, batch by batch, with ``batch_size`` rows per process.

    Yields:
        Positions of the rows of a batch, (B,), and their losses (B,), float64 on the CPU.
    """
    causal_lm = CausalLM(model)
    for batch in longest_first(encoded, batch_size * distributed.num_processes()):
        losses = torch.zeros(len(batch.rows), dtype=torch.float64)
        for micro_batch, counts in distributed.split_between_processes(list(batch.split(batch_size))):
            found = causal_lm.losses(micro_batch.tokens, micro_batch.mask).cpu().double()
            losses[micro_batch.indices] = found * counts
        yield batch.rows.numpy(), distributed.all_reduce_sum(losses)


def output_head(model: PreTrainedModel) -> Head:
    """The output layer of a transformers model, with the scale or softcap of its family."""
    layer = model.get_output_embeddings()
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0
    scale /= getattr(config, "logits_scaling", None) or 1.0
    return Head(layer.weight, layer.bias, scale, getattr(config, "final_logit_softcapping", None))


def decoder_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder blocks in order. Raises UserError if the model has no list of them."""
    count = model.config.get_text_config().num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise UserError(f"{type(model).__name__}: no list of {count} decoder blocks; this family is not supported")


@contextlib.contextmanager
def _capture_input(block: nn.Module) -> Iterator[list[Tensor]]:
    """Hidden states (B, T, D) that enter the block during the context, one per forward pass."""
    captured: list[Tensor] = []

    def capture(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        captured.append(args[0] if args else kwargs["hidden_states"])

    handle = block.register_forward_pre_hook(capture, with_kwargs=True)
    try:
        yield captured
    finally:
        handle.remove()


def _mean_states(states: Tensor, mask: Tensor) -> Tensor:
    """Means (B, D) in float32 of the states (B, T, D) where the mask (B, T) is true; 0 for rows without any."""
    weights = mask / mask.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("bt,btd->bd", weights.float(), states.float())


@torch.no_grad()
def _check_decomposition(model: PreTrainedModel, causal_lm: CausalLM) -> None:
    """Raise UserError if the model's forward does more than body and head: the losses would be silently wrong."""
    tokens = torch.arange(1, 5, device=model.device)[None]
    try:
        expected = model(input_ids=tokens, use_cache=False).logits.float()
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise UserError(
            f"{type(model).__name__}: its forward pass fails ({excerpt(error, 200)}); this family, or an adapter on "
            "these of its layers, is not supported"
        ) from error
    hidden = causal_lm.hidden_states(tokens)
    found = causal_lm.head.logits(hidden.to(causal_lm.head.weight.dtype))
    scale = float(expected.nan_to_num().abs().max())
    if not torch.allclose(expected, found, rtol=0.05, atol=0.05 * scale, equal_nan=True):  # NaN is named later
        raise UserError(f"{type(model).__name__}: its logits are not head(body(tokens)); this family is not supported")
