"""FLOPs of forward and backward passes, of ranking, and of tuning.

A product with a matrix of W weights takes 2 W FLOPs per token: one multiplication and one addition per weight.
"""

from __future__ import annotations

from typing import NamedTuple

from sealtune.cli.dimensions import ModelDimensions
from sealtune.core.config import Config, LoraBlock
from sealtune.models.target_modules import ALL_LINEAR, any_matches, choose_targets, matches
from sealtune.ranking.job import Amounts, Cost
from sealtune.ranking.methods import load_ranker

RESPONSE_SHARE = 0.6
"""Assumed share of response tokens, which need logits; measured on the rows of docs/performance.md."""


class TokenFlops(NamedTuple):
    """FLOPs per token of a forward and of a backward pass."""

    forward: float
    backward: float


def trainable_parameters(model: ModelDimensions, block: LoraBlock) -> int:
    """All weights, or with LoRA layers x r x (inputs + outputs) of each adapted matrix."""
    if not block.use_peft:
        return model.parameters
    return model.layers * block.lora_r * sum(map(sum, adapted_sizes(model, block)))


def adapted_sizes(model: ModelDimensions, block: LoraBlock) -> list[tuple[int, int]]:
    """(inputs, outputs) of the matrices of a layer that have an adapter; a layer of an unknown name is square."""
    matrices = model.modules
    targets = choose_targets(block, matrices, model.family) or block.lora_target_modules
    if targets == ALL_LINEAR:
        return list(matrices.values())
    found = [size for name, size in matrices.items() if matches(targets, name)]
    unknown = [] if isinstance(targets, str) else [t for t in targets if not any_matches([t], matrices)]
    return found + [(model.hidden, model.hidden)] * len(unknown)


def token_flops(
    model: ModelDimensions, block: LoraBlock, length: float, response_share: float = RESPONSE_SHARE
) -> TokenFlops:
    """FLOPs per token in rows of ``length`` tokens, of which ``response_share`` are response tokens.

    Forward: 2 per weight. Backward: 2 per weight for the activations, and 2 more per trained weight; so 4 in total for
    a frozen weight and 6 for a trained one. The input embedding is a lookup. Attention takes 4 per position and query
    channel, twice as much backward. The output layer only counts at response tokens; if it is trained, its forward
    pass is computed twice (``models/losses.py``).
    """
    adapters = trainable_parameters(model, block) if block.use_peft else 0
    attention = 4.0 * length * model.layers * model.heads * model.head_size
    head = response_share * model.vocabulary * model.hidden
    forward = 2.0 * (model.linear + adapters) + attention + 2 * head
    if block.use_peft:
        backward = 2 * model.linear + 4 * adapters + 2 * attention + 2 * head
    else:
        backward = 4 * model.linear + 2 * attention + 6 * head
    recomputed = 2 * (_recomputed_weights(model) + adapters) + attention if block.gradient_checkpointing else 0
    return TokenFlops(forward, backward + recomputed)


def _recomputed_weights(model: ModelDimensions) -> int:
    """Weights in the second forward pass of gradient checkpointing; the last matrix of a layer is skipped."""
    *_, (inputs, outputs) = model.modules.values()
    return model.linear - model.layers * inputs * outputs


def rank_flops(model: ModelDimensions, config: Config, amounts: Amounts) -> float:
    """FLOPs of a complete ranking with this model."""
    cost, per_token = rank_cost(config, amounts), token_flops(model, config.rank, amounts.tokens)
    return amounts.tokens * (cost.forward * per_token.forward + cost.backward * per_token.backward)


def rank_cost(config: Config, amounts: Amounts) -> Cost:
    """The cost that the config's ranker states."""
    return load_ranker(config.rank.method).cost(config.rank, amounts)


def tune_flops(model: ModelDimensions, config: Config, amounts: Amounts) -> float:
    """FLOPs of tuning on the kept rows, with logits at all positions."""
    ratio = config.select.keep_ratio if isinstance(config.select.keep_ratio, float | int) else 1.0
    tokens = ratio * amounts.rows * amounts.tokens * config.tune.num_train_epochs
    return tokens * sum(token_flops(model, config.tune, amounts.tokens, response_share=1.0))
