"""FLOPs and bytes of the forward and backward pass of a ranking, counted tensor by tensor while it runs.

A model of given dimensions runs with real tensors, or with fake tensors, which have shapes and no numbers (``fake``).
Thus the passes of an 8B and a 70B model are counted on a machine with room for neither.
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

from sealtune.cli.dimensions import ModelDimensions
from sealtune.cli.flops import RESPONSE_SHARE
from sealtune.core.config import Config
from sealtune.data.batches import Batch
from sealtune.data.encoded import Encoded
from sealtune.models import adapters, causal_lm
from sealtune.models.losses import token_losses


def count(dimensions: ModelDimensions, config: Config, *, fake: bool) -> tuple[float, float]:
    """FLOPs per token and peak bytes of one micro-batch of rows of ``max_length`` tokens."""
    flops, held = (_run(dimensions, config, meter, fake) for meter in (FlopCounterMode(display=False), LiveBytes()))
    tokens = config.rank.per_device_train_batch_size * config.max_length
    return flops.get_total_flops() / tokens, float(held.peak)


class LiveBytes(TorchDispatchMode):
    """Bytes of all live tensors, and their peak; workspaces within a kernel are not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: dict[int, weakref.ref] = {}

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.alive:
            self.alive[key] = weakref.ref(storage, lambda _: self._remove(key, size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def _remove(self, key: int, size: int) -> None:
        self.alive.pop(key, None)
        self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                self.add(value)
        return result


def _run(dimensions: ModelDimensions, config: Config, meter, fake: bool):
    """The meter, after one pass of a new model."""
    # Only matrix products count as FLOPs, so attention must consist of them; bytes are those of the usual kernel.
    attention = "eager" if isinstance(meter, FlopCounterMode) else "sdpa"
    with ExitStack() as stack:
        stack.enter_context(patch.object(causal_lm, "_check_decomposition"))  # it compares numbers
        with torch.device("meta") if fake else nullcontext():
            model = _model(dimensions, config, attention)
            player = _player(model, config)
        if fake:
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            model.to_empty(device="cpu")
            player.model.head = causal_lm.output_head(model)
        if isinstance(meter, LiveBytes):
            for parameter in model.parameters():
                meter.add(parameter)
        with meter:
            if fake:
                _fake_pass(player, dimensions, config)
            else:
                player.learn(_rows(dimensions, config), torch.ones(_batch_size(config)))
    return meter


def _model(dimensions: ModelDimensions, config: Config, attention: str) -> LlamaForCausalLM:
    llama = LlamaConfig(
        num_hidden_layers=dimensions.layers,
        hidden_size=dimensions.hidden,
        intermediate_size=dimensions.intermediate,
        num_attention_heads=dimensions.heads,
        num_key_value_heads=dimensions.kv_heads,
        head_dim=dimensions.head_size,
        vocab_size=dimensions.vocabulary,
        tie_word_embeddings=dimensions.tied,
        attn_implementation=attention,
        use_cache=False,
    )
    dtype = torch.bfloat16 if config.rank.use_peft and config.dtype != "float32" else torch.float32
    return LlamaForCausalLM(llama).to(dtype).eval()


def _player(model: LlamaForCausalLM, config: Config) -> adapters.Player:
    if config.rank.use_peft:
        return adapters.lora_players(model, config.rank, ["theta"], 0)["theta"]
    return adapters.full_players(model, config.rank, ["theta"], torch.bfloat16)["theta"]


def _batch_size(config: Config) -> int:
    return config.rank.per_device_train_batch_size


def _fake_pass(player: adapters.Player, dimensions: ModelDimensions, config: Config) -> None:
    """What ``Player.learn`` does, without reading the values of a mask."""
    tokens = torch.zeros(_batch_size(config), config.max_length, dtype=torch.int64)
    responses = round(config.max_length * RESPONSE_SHARE)
    with nullcontext() if config.rank.use_peft else torch.autocast("cpu", torch.bfloat16):
        hidden = player.model.hidden_states(tokens)[:, -responses - 1 : -1].reshape(-1, dimensions.hidden)
        losses = token_losses(hidden, player.model.head, tokens[:, -responses:].reshape(-1))
    losses.mean().backward()


def _rows(dimensions: ModelDimensions, config: Config) -> Batch:
    random, length, size = np.random.default_rng(0), config.max_length, _batch_size(config)
    mask = np.arange(length) >= length - round(length * RESPONSE_SHARE)
    parts = [(random.integers(3, dimensions.vocabulary, length).astype(np.int32), mask) for _ in range(size)]
    names = [str(i) for i in range(size)]
    return Batch(torch.arange(size), Encoded.join(names, names, parts))
