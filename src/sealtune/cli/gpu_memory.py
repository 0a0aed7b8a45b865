"""What a GPU must hold: weights, what learns, activations; alone or as one of several (DDP, FSDP2, ZeRO).

Engines differ while rows are ranked in one thing: whether the frozen blocks are spread over the GPUs (``processes``).
"""

from __future__ import annotations

from typing import NamedTuple

from sealtune.cli.dimensions import Shape
from sealtune.cli.flops import adapted, trained
from sealtune.core.config import Config, LoraBlock
from sealtune.ranking.job import Cost

OVERHEAD = 2**30
"""The GPU's own context and the libraries' workspace."""
FOUR_BIT = 0.52
"""Bytes of a 4-bit weight, with 4 % of scales (double quantisation)."""


class Engine(NamedTuple):
    """How the work is spread; the names are those of ``--accelerate_config``."""

    name: str = "single_gpu"
    gpus: int = 1

    @property
    def spreads_base(self) -> bool:
        """Whether a GPU keeps only its part of the frozen blocks and gathers a block when it is needed."""
        return self.name in ("fsdp2", "zero3")


SINGLE = Engine()


def weight_size(config: Config) -> int:
    """Bytes of a weight: 2, or 4 with float32; ``auto`` is taken for bfloat16, as on a GPU."""
    return 4 if config.dtype == "float32" else 2


def base_bytes(shape: Shape, config: Config) -> float:
    """The frozen model: parameters times bytes; with ``load_in_4bit`` its layers at half a byte."""
    size = weight_size(config)
    return shape.embedding * size + shape.linear * (FOUR_BIT if config.load_in_4bit else size)


def held_bytes(shape: Shape, config: Config, block: LoraBlock, engine: Engine) -> float:
    """Frozen weights on one GPU, and what is gathered or unpacked of them at once.

    Spread, two blocks are whole, the one at work and the next; the embeddings always are. A 4-bit base is unpacked one
    matrix at a time. A model trained whole has no frozen base.
    """
    size = weight_size(config)
    if engine.spreads_base:
        return size * (shape.embedding + shape.linear / engine.gpus + 2 * shape.linear / shape.layers)
    largest = max(inputs * outputs for inputs, outputs in shape.modules.values())
    return (base_bytes(shape, config) if block.use_peft else 0.0) + (largest * size if config.load_in_4bit else 0)


def learner_bytes(block: LoraBlock, weights: int) -> float:
    """Weights that learn, their gradients and AdamW's two moments, all in float32: 16 bytes, whole on every GPU.

    A model trained whole has 4 bytes more, a passing vector of AdamW's step.
    """
    return (16.0 if block.use_peft else 20.0) * weights


def activation_bytes(shape: Shape, config: Config, block: LoraBlock) -> float:
    """What the backward pass needs, for one micro-batch of rows as long as ``max_length``.

    A layer keeps, a token: two hidden states in float32 (the norms); queries, keys, values and the attention's output,
    each for every head; three inner states; and the inputs of what learns, for adapters in float32. With checkpointing
    one layer is kept, and of the others their inputs.
    """
    size, d = weight_size(config), shape.hidden
    layer = 8 * d + size * (4 * shape.heads * shape.head_size + 3 * shape.inner) + _inputs_bytes(shape, config, block)
    tokens = block.per_device_train_batch_size * config.max_length
    if block.gradient_checkpointing:
        return float(tokens * (layer + shape.layers * d * (size if block.use_peft else 4)))
    return float(tokens * shape.layers * layer)


def passing_bytes(shape: Shape, config: Config, block: LoraBlock, logits: float) -> float:
    """What comes and goes beside it: logits after the forward pass; after them the gradients of the layer at work.

    Of a logit its value in ``dtype`` and in float32, its softmax, and its gradient in ``dtype``: 12 bytes. Of a layer
    three inner states, and two hidden states in float32.
    """
    tokens = block.per_device_train_batch_size * config.max_length
    return max(12 * logits, float(tokens * (8 * shape.hidden + 3 * weight_size(config) * shape.inner)))


def _inputs_bytes(shape: Shape, config: Config, block: LoraBlock) -> float:
    """Inputs of the matrices and norms of a layer that learn, a token."""
    if not block.use_peft:
        return weight_size(config) * (5 * shape.hidden + shape.inner) + 8 * shape.hidden
    return 4.0 * sum(shape.modules.get(name, (shape.hidden,))[0] for name in adapted(shape, block))


def learning_bytes(
    shape: Shape, config: Config, block: LoraBlock, logits: float, count: int = 1, engine: Engine = SINGLE
) -> float:
    """All that training ``count`` players takes on one GPU, with so many logits at once."""
    learns = learner_bytes(block, count * trained(shape, block))
    passes = activation_bytes(shape, config, block) + passing_bytes(shape, config, block, logits)
    return held_bytes(shape, config, block, engine) + learns + passes + OVERHEAD


def rank_bytes(shape: Shape, config: Config, cost: Cost, engine: Engine = SINGLE) -> float:
    """Ranking on one GPU of an engine, by a model of this shape: ``cost.players`` players, logits by chunks."""
    from sealtune.models.losses import CHUNK_LOGITS

    if cost.players == 0:
        return 0.0
    logits = min(CHUNK_LOGITS, _logits(shape, config, config.rank))
    return learning_bytes(shape, config, config.rank, logits, cost.players, engine)


def tune_bytes(shape: Shape, config: Config) -> float:
    """Tuning on one GPU, with the logits of a whole micro-batch: newer trainers, by chunks, need less."""
    return learning_bytes(shape, config, config.tune, _logits(shape, config, config.tune))


def _logits(shape: Shape, config: Config, block: LoraBlock) -> float:
    return float(block.per_device_train_batch_size * config.max_length * shape.vocabulary)


def ask_bytes(shape: Shape, config: Config) -> float:
    """The model, and keys and values of a batch: 2 x layers x kv heads x head size a token of prompt and answer."""
    asked = config.evaluate
    length = asked.max_prompt_length + asked.max_new_tokens
    cache = 2.0 * shape.layers * shape.kv_heads * shape.head_size * weight_size(config) * asked.batch_size * length
    return base_bytes(shape, config) + cache + OVERHEAD


def scratch_bytes(shape: Shape, cost: Cost) -> float:
    """Disk per candidate in each process while it is ranked: hidden states in float32."""
    return 4.0 * shape.hidden * cost.stored_states
