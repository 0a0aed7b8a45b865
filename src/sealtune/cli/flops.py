"""How much a model computes: operations of a pass over a token, and the passes that a ranking makes.

A product with a matrix of W weights takes 2 W operations a token: a multiplication and an addition each.
"""

from __future__ import annotations

from typing import NamedTuple

from sealtune.cli.dimensions import Shape
from sealtune.core.config import Config, LoraBlock
from sealtune.ranking.job import Amounts, Cost
from sealtune.ranking.methods import load_ranker

ANSWERS = 0.6
"""Share of the tokens that are learned, and so need logits: that of the rows of docs/performance.md."""


class Passes(NamedTuple):
    """Operations of a forward and of a backward pass over one token."""

    forward: float
    backward: float


def trained(shape: Shape, block: LoraBlock) -> int:
    """Weights that learn: all, or layers x r x (inputs + outputs) of each matrix with an adapter."""
    if not block.use_peft:
        return shape.parameters
    each = (sum(shape.modules.get(name, (shape.hidden,) * 2)) for name in adapted(shape, block))
    return shape.layers * block.lora_r * sum(each)


def adapted(shape: Shape, block: LoraBlock) -> list[str]:
    """The matrices of a layer that have an adapter."""
    return list(shape.modules) if block.lora_target_modules == "all-linear" else block.lora_target_modules


def passes(shape: Shape, block: LoraBlock, length: float, answers: float = ANSWERS) -> Passes:
    """Operations a token of rows ``length`` tokens long, of which the share ``answers`` is learned.

    Forward 2 a weight. Backward 2 to the activations, and 2 more to weights that learn: so 4 in all for a frozen
    weight, 6 for a trained one. The input embedding is no product. Attention, 4 operations a position and query
    channel, has no weights: twice as much backward. The output layer counts at learned positions; trained, its forward
    pass is made twice (``losses``).
    """
    adapters = trained(shape, block) if block.use_peft else 0
    attention = 4.0 * length * shape.layers * shape.heads * shape.head_size
    head = answers * shape.vocabulary * shape.hidden
    forward = 2.0 * (shape.linear + adapters) + attention + 2 * head
    if block.use_peft:
        backward = 2 * shape.linear + 4 * adapters + 2 * attention + 2 * head
    else:
        backward = 4 * shape.linear + 2 * attention + 6 * head
    again = 2 * (_made_again(shape) + adapters) + attention if block.gradient_checkpointing else 0
    return Passes(forward, backward + again)


def _made_again(shape: Shape) -> int:
    """Weights of a layer's second forward pass under checkpointing: of its last matrix only the input is needed."""
    *_, (inputs, outputs) = shape.modules.values()
    return shape.linear - shape.layers * inputs * outputs


def rank_operations(shape: Shape, config: Config, amounts: Amounts) -> float:
    """Operations of a whole ranking by a model of this shape."""
    cost, per_token = rank_cost(config, amounts), passes(shape, config.rank, amounts.tokens)
    return amounts.tokens * (cost.forward * per_token.forward + cost.backward * per_token.backward)


def rank_cost(config: Config, amounts: Amounts) -> Cost:
    """What the ranker of the config states that it takes."""
    return load_ranker(config.rank.method).cost(config.rank, amounts)


def tune_operations(shape: Shape, config: Config, amounts: Amounts) -> float:
    """Operations of tuning on the rows kept, with logits at all positions."""
    ratio = config.select.keep_ratio if isinstance(config.select.keep_ratio, float | int) else 1.0
    kept = ratio * amounts.rows * amounts.tokens * config.tune.num_train_epochs
    return kept * sum(passes(shape, config.tune, amounts.tokens, answers=1.0))
