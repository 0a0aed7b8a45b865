"""Operations and bytes of a ranking's forward and backward pass, counted tensor by tensor as it runs.

A model of ``sealtune.shapes`` runs for real, or with tensors that have sizes and no content (``imagined``): so the
passes of an 8B and a 70B model are counted on a machine that could hold neither.
"""

from __future__ import annotations

import weakref
from contextlib import ExitStack, nullcontext
from unittest.mock import patch

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from sealtune.cli.dimensions import Shape
from sealtune.cli.flops import ANSWERS
from sealtune.core.config import Config
from sealtune.data.batches import Batch
from sealtune.data.encoded import Encoded
from sealtune.models import adapters, causal_lm
from sealtune.models.losses import token_losses


def count(shape: Shape, config: Config, *, imagined: bool) -> tuple[float, float]:
    """Operations a token, and most bytes alive, of one micro-batch of rows as long as ``max_length``."""
    found = [_run(shape, config, meter, imagined) for meter in (FlopCounterMode(display=False), Bytes())]
    tokens = config.rank.per_device_train_batch_size * config.max_length
    return found[0].get_total_flops() / tokens, float(found[1].most)


class Bytes(TorchDispatchMode):
    """Bytes of all tensors alive, and the most there were; what a kernel uses within itself is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.alive: dict[int, weakref.ref] = {}

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.alive:
            self.alive[key] = weakref.ref(storage, lambda _: self._drop(key, size))
            self.now += size
            self.most = max(self.most, self.now)

    def _drop(self, key: int, size: int) -> None:
        self.alive.pop(key, None)
        self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                self.add(value)
        return result


def _run(shape: Shape, config: Config, meter, imagined: bool):
    """The meter, after a pass of a fresh model under it."""
    # Products alone are counted, so attention must be made of them; for bytes it is the kernel that trainings use.
    attention = "eager" if isinstance(meter, FlopCounterMode) else "sdpa"
    with ExitStack() as stack:
        stack.enter_context(patch.object(causal_lm, "_check_halves"))  # it compares numbers, and there may be none
        place = torch.device("meta") if imagined else nullcontext()
        with place:
            model = _model(shape, config, attention)
            player = _player(model, config)
        if imagined:
            fake = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            model.to_empty(device="cpu")
            player.model.head = causal_lm.output_head(model)
            assert fake
        if isinstance(meter, Bytes):
            for parameter in model.parameters():
                meter.add(parameter)
        with meter:
            _pass(player, shape, config) if imagined else player.learn(_rows(shape, config), torch.ones(_size(config)))
    return meter


def _model(shape: Shape, config: Config, attention: str) -> LlamaForCausalLM:
    names = {"num_hidden_layers": shape.layers, "hidden_size": shape.hidden, "intermediate_size": shape.inner}
    names |= {"num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_size}
    names |= {"vocab_size": shape.vocabulary, "tie_word_embeddings": shape.tied}
    dtype = torch.bfloat16 if config.rank.use_peft and config.dtype != "float32" else torch.float32
    llama = LlamaConfig(**names, attn_implementation=attention, use_cache=False)
    return LlamaForCausalLM(llama).to(dtype).eval()


def _player(model: LlamaForCausalLM, config: Config) -> adapters.Player:
    if config.rank.use_peft:
        return adapters.lora_players(model, config.rank, ["theta"], 0)["theta"]
    return adapters.full_players(model, config.rank, ["theta"], torch.bfloat16)["theta"]


def _size(config: Config) -> int:
    return config.rank.per_device_train_batch_size


def _pass(player: adapters.Player, shape: Shape, config: Config) -> None:
    """What ``Player.learn`` does, where no mask can be looked at."""
    tokens = torch.zeros(_size(config), config.max_length, dtype=torch.int64)
    learned = round(config.max_length * ANSWERS)
    with nullcontext() if config.rank.use_peft else torch.autocast("cpu", torch.bfloat16):
        hidden = player.model.hidden(tokens)[:, -learned - 1 : -1].reshape(-1, shape.hidden)
        losses = token_losses(hidden, player.model.head, tokens[:, -learned:].reshape(-1))
    losses.mean().backward()


def _rows(shape: Shape, config: Config) -> Batch:
    random, length = np.random.default_rng(0), config.max_length
    mask = np.arange(length) >= length - round(length * ANSWERS)
    parts = [(random.integers(3, shape.vocabulary, length).astype(np.int32), mask) for _ in range(_size(config))]
    names = [str(i) for i in range(_size(config))]
    return Batch(torch.arange(_size(config)), Encoded.join(names, names, parts))
