"""Peak GPU memory of ranking, tuning and generation, on one GPU or as one of several (DDP, FSDP2, ZeRO).

While ranking, the strategies differ in one point: whether the frozen base is sharded (``models/sharding.py``).
"""

from __future__ import annotations

from typing import NamedTuple

from sealtune.cli.dimensions import ModelDimensions
from sealtune.cli.flops import adapted_sizes, trainable_parameters
from sealtune.core.config import Config, LoraBlock
from sealtune.ranking.job import Cost

OVERHEAD = 2**30
"""CUDA context and the workspaces of libraries."""
FOUR_BIT_SIZE = 0.52
"""Bytes per 4-bit weight, with 4 % for scales (double quantisation)."""
SCALES = 1.04
"""Size of quantised weights together with their scales, relative to their bits."""


class Strategy(NamedTuple):
    """How the GPUs share the work; ``name`` is that of an ``--accelerate_config``."""

    name: str = "single_gpu"
    gpus: int = 1

    @property
    def shards_base(self) -> bool:
        """Whether each GPU stores a shard of the frozen layers and gathers a layer when it is needed."""
        return self.name in ("fsdp2", "zero3")


SINGLE_GPU = Strategy()


def weight_size(config: Config) -> int:
    """Bytes per weight: 4 for float32, otherwise 2; ``auto`` means bfloat16 on a GPU."""
    return 4 if config.dtype == "float32" else 2


def base_bytes(model: ModelDimensions, config: Config) -> float:
    """The weights of the base model; those of its layers are smaller with ``load_in_4bit`` or quantised files."""
    size = weight_size(config)
    return model.embedding * size + model.linear * (_quantised_size(model, config) or size)


def _quantised_size(model: ModelDimensions, config: Config) -> float | None:
    """Bytes per quantised weight of a layer; None if they are not quantised."""
    if config.load_in_4bit:
        return FOUR_BIT_SIZE
    return SCALES * model.bits / 8 if model.bits else None


def frozen_bytes(model: ModelDimensions, config: Config, block: LoraBlock, strategy: Strategy) -> float:
    """Frozen weights on one GPU, with the buffers for gathering or dequantising them.

    If sharded, two layers are gathered at once (the current and the next), and the embeddings always are. A quantised
    base is dequantised one matrix at a time. A fully trained model has no frozen base.
    """
    size = weight_size(config)
    if strategy.shards_base:
        return size * (model.embedding + model.linear / strategy.gpus + 2 * model.linear / model.layers)
    largest = max(inputs * outputs for inputs, outputs in model.modules.values())
    return (base_bytes(model, config) if block.use_peft else 0.0) + (
        largest * size if _quantised_size(model, config) else 0
    )


def trainable_bytes(block: LoraBlock, weights: int) -> float:
    """Trainable weights, gradients and AdamW's two moments in float32: 16 bytes per weight, replicated on every GPU.

    Full training takes 4 bytes more, for a temporary vector in AdamW's step.
    """
    return (16.0 if block.use_peft else 20.0) * weights


def activation_bytes(model: ModelDimensions, config: Config, block: LoraBlock) -> float:
    """Activations kept for the backward pass of one micro-batch of rows with ``max_length`` tokens.

    Per token, a layer keeps two hidden states in float32 (norms); queries, keys, values and the attention output of
    all heads; three intermediate states; and the inputs of trained matrices, for adapters in float32. With gradient
    checkpointing, one layer is kept in full, and only the inputs of the others.
    """
    size, d = weight_size(config), model.hidden
    states = size * (4 * model.heads * model.head_size + 3 * model.intermediate)
    layer = 8 * d + states + _trained_input_bytes(model, config, block)
    tokens = block.per_device_train_batch_size * config.max_length
    if block.gradient_checkpointing:
        return float(tokens * (layer + model.layers * d * (size if block.use_peft else 4)))
    return float(tokens * model.layers * layer)


def _trained_input_bytes(model: ModelDimensions, config: Config, block: LoraBlock) -> float:
    """Inputs of the trained matrices and norms of a layer, per token."""
    if not block.use_peft:
        return weight_size(config) * (5 * model.hidden + model.intermediate) + 8 * model.hidden
    return 4.0 * sum(inputs for inputs, _ in adapted_sizes(model, block))


def temporary_bytes(model: ModelDimensions, config: Config, block: LoraBlock, logits: float) -> float:
    """The larger of two buffers: logits after the forward pass, or later the gradients of the current layer.

    A logit takes 12 bytes: its value in ``dtype`` and float32, its softmax, and its gradient in ``dtype``. A layer
    takes three intermediate states, and two hidden states in float32.
    """
    tokens = block.per_device_train_batch_size * config.max_length
    return max(12 * logits, float(tokens * (8 * model.hidden + 3 * weight_size(config) * model.intermediate)))


def training_bytes(
    model: ModelDimensions,
    config: Config,
    block: LoraBlock,
    logits: float,
    players: int = 1,
    strategy: Strategy = SINGLE_GPU,
) -> float:
    """Training ``players`` adapters or models on one GPU, with ``logits`` logits at once."""
    trainable = trainable_bytes(block, players * trainable_parameters(model, block))
    pass_bytes = activation_bytes(model, config, block) + temporary_bytes(model, config, block, logits)
    return frozen_bytes(model, config, block, strategy) + trainable + pass_bytes + OVERHEAD


def rank_bytes(model: ModelDimensions, config: Config, cost: Cost, strategy: Strategy = SINGLE_GPU) -> float:
    """Ranking on each GPU: ``cost.players`` players, logits in chunks."""
    from sealtune.models.losses import CHUNK_LOGITS

    if cost.players == 0:
        return 0.0
    logits = min(CHUNK_LOGITS, _logits(model, config, config.rank))
    return training_bytes(model, config, config.rank, logits, cost.players, strategy)


def tune_bytes(model: ModelDimensions, config: Config) -> float:
    """Tuning on one GPU, with the logits of a complete micro-batch; trainers that chunk logits need less."""
    return training_bytes(model, config, config.tune, _logits(model, config, config.tune))


def _logits(model: ModelDimensions, config: Config, block: LoraBlock) -> float:
    return float(block.per_device_train_batch_size * config.max_length * model.vocabulary)


def generation_bytes(model: ModelDimensions, config: Config) -> float:
    """The model and the KV cache of a batch: 2 x layers x kv heads x head size per token of prompt and answer."""
    settings = config.evaluate
    tokens = settings.batch_size * (settings.max_prompt_length + settings.max_new_tokens)
    cache = 2.0 * model.layers * model.kv_heads * model.head_size * weight_size(config) * tokens
    return base_bytes(model, config) + cache + OVERHEAD


def scratch_bytes(model: ModelDimensions, cost: Cost) -> float:
    """Scratch files on disk per candidate and process while ranking: hidden states in float32."""
    return 4.0 * model.hidden * cost.stored_states
