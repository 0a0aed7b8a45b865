"""A causal language model as two halves, so that logits are made only where a token is learned."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sealtune.core import distributed
from sealtune.core.errors import UserError
from sealtune.core.string_array import IntArray
from sealtune.data.batches import Padded, longest_first
from sealtune.data.encoded import Encoded
from sealtune.models.losses import Head, row_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LanguageModel:
    """The two halves of a causal language model: the body that makes hidden states, and the head that reads them."""

    def __init__(self, model: PreTrainedModel) -> None:
        if hasattr(model, "get_base_model"):  # a PeftModel: its adapters lie within the layers of the base
            model = model.get_base_model()
        self.body: nn.Module = model.base_model
        self.head = output_head(model)
        self.blocks = decoder_blocks(model)
        self.device: torch.device = model.device
        self._compiled = self.body
        _check_halves(model, self)

    def compile(self) -> None:
        """Compile the body for ``losses``: minutes once, then faster. Raises UserError where nothing compiles."""
        try:
            torch.compile(lambda x: x + 1)(torch.zeros(1, device=self.device))
        except Exception as error:
            told = " ".join(str(error).split())[:200]
            raise UserError(f"rank.torch_compile: nothing can be compiled on this machine ({told})") from error
        self._compiled = torch.compile(self.body, dynamic=True)  # every batch has another length

    def hidden(self, tokens: Tensor) -> Tensor:
        """Last hidden states (B, T, D) of token ids (B, T) that are padded on the right."""
        states: Tensor = self._compiled(input_ids=tokens, use_cache=False).last_hidden_state
        return states

    @torch.no_grad()
    def extract_features(self, piece: Padded) -> tuple[Tensor, Tensor, Tensor]:
        """l_i, (B,), mean hidden states of the prompts and of the responses, (B, D): one forward pass, on the CPU.

        The states are those half-way up the body: the last layers serve the next token, the first ones the words. The
        prompt is what stands before the first learned token.
        """
        tokens, mask = piece.tokens.to(self.device), piece.mask.to(self.device)
        middle = self.blocks[len(self.blocks) // 2]
        with _inputs_of(middle) as seen:  # which would be compiled anew each time
            hidden = self.body(input_ids=tokens, use_cache=False).last_hidden_state
        losses = row_losses(hidden, self.head, tokens, mask)
        prompts, responses = _mean_states(seen[0], mask.cumsum(1) == 0), _mean_states(seen[0], mask)
        return losses.cpu().double(), prompts.cpu(), responses.cpu()

    def losses(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """l_i, (B,), of token ids and masks (B, T) that lie on any device."""
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        return row_losses(self.hidden(tokens), self.head, tokens, mask)


@torch.no_grad()
def data_set_losses(model: PreTrainedModel, encoded: Encoded, batch_size: int) -> Iterator[tuple[IntArray, Tensor]]:
    """Each row's loss under the model as it stands: (positions, losses float64 on the CPU) batch by batch, which is
    ``batch_size`` rows a process.
    """
    language_model = LanguageModel(model)
    for batch in longest_first(encoded, batch_size * distributed.num_processes()):
        losses = torch.zeros(len(batch.rows), dtype=torch.float64)
        for piece, counts in distributed.split_between_processes(list(batch.split(batch_size))):
            part = language_model.losses(piece.tokens, piece.mask).cpu().double()
            losses[piece.places] = part * counts
        yield batch.rows.numpy(), distributed.all_reduce_sum(losses)


def output_head(model: PreTrainedModel) -> Head:
    """The output layer of a transformers model, with the scale or soft cap of its family."""
    layer = model.get_output_embeddings()
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0
    scale /= getattr(config, "logits_scaling", None) or 1.0
    return Head(layer.weight, layer.bias, scale, getattr(config, "final_logit_softcapping", None))


def decoder_blocks(model: PreTrainedModel) -> nn.ModuleList:
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
