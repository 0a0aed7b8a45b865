"""How much a model computes: operations of a pass over a token, and the passes that a ranking makes.

A product with a matrix of W weights takes 2 W operations a token: a multiplication and an addition each.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from sealtune.config import Config, LoraBlock, RankConfig
from sealtune.shapes import Shape

ANSWERS = 0.6
"""Share of the tokens that are learned, and so need logits: that of the rows of docs/performance.md."""


class Amounts(NamedTuple):
    """How much there is to rank: candidates, tokens of each, and rows of the safe set, taken to be as long."""

    rows: int
    tokens: float
    safe_rows: int


class Passes(NamedTuple):
    """Operations of a forward and of a backward pass over one token."""

    forward: float
    backward: float


class Work(NamedTuple):
    """Rows that go forward and backward through the model in a whole ranking: a row counts once a pass."""

    forward: float
    backward: float


# Of methods that are not SEAL: (forward, backward) passes over the candidates, and over the safe set.
METHODS = {"random": ((0, 0), (0, 0)), "dsir": ((0, 0), (0, 0)), "moderation": ((0, 0), (0, 0))}
METHODS |= {"embedding": ((0, 0), (0, 0)), "loss": ((1, 0), (0, 0)), "gradient": ((1, 1), (1, 1))}
METHODS |= {"excess_loss": ((2, 0), (1, 1))}
LOOKS = ((1, 0), (1, 0))  # of ``shared``, once theta has learned


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


def rank_work(config: Config, amounts: Amounts) -> Work:
    """The passes of a whole ranking.

    SEAL goes, an epoch, over the candidates (backward only where gamma is not 0), over as many safe rows as its batches
    hold, and in Algorithm 1 once more over the candidates. Other methods are in METHODS.
    """
    from sealtune.bilevel import gamma_at

    settings, rows = config.rank, amounts.rows
    if settings.method not in ("seal", "seal_released"):
        learned = 0 if settings.method in METHODS else _learned(settings, amounts)
        candidates, safe = METHODS.get(settings.method, LOOKS)
        return Work(*(a * rows + b * amounts.safe_rows + learned for a, b in zip(candidates, safe, strict=True)))
    batch = batch_size(settings)
    learns = rows * (min(settings.safe_batch_size or batch, amounts.safe_rows) / batch + players(settings) - 1)
    gammas = [gamma_at(epoch, settings.gamma, settings.gamma_schedule) for epoch in range(settings.num_train_epochs)]
    return Work(len(gammas) * (learns + rows), sum(learns + (rows if gamma else 0) for gamma in gammas))


def _learned(settings: RankConfig, amounts: Amounts) -> float:
    """Safe rows from which ``shared`` learns, each as often as it is met."""
    from sealtune.bilevel import safe_steps

    batch = min(settings.safe_batch_size or batch_size(settings), max(1, amounts.safe_rows))
    per_epoch, of_candidates = (max(1, ceil(rows / batch)) for rows in (amounts.safe_rows, amounts.rows))
    return amounts.safe_rows * safe_steps(per_epoch, settings.num_train_epochs, of_candidates) / per_epoch


def rank_operations(shape: Shape, config: Config, amounts: Amounts) -> float:
    """Operations of a whole ranking by a model of this shape."""
    work, cost = rank_work(config, amounts), passes(shape, config.rank, amounts.tokens)
    return amounts.tokens * (work.forward * cost.forward + work.backward * cost.backward)


def tune_operations(shape: Shape, config: Config, amounts: Amounts) -> float:
    """Operations of tuning on the rows kept, with logits at all positions."""
    ratio = config.select.keep_ratio if isinstance(config.select.keep_ratio, float | int) else 1.0
    kept = ratio * amounts.rows * amounts.tokens * config.tune.num_train_epochs
    return kept * sum(passes(shape, config.tune, amounts.tokens, answers=1.0))


def players(settings: RankConfig) -> int:
    """Two in Algorithm 1."""
    return 2 if settings.method == "seal" and settings.algorithm == 1 else 1


def batch_size(settings: RankConfig) -> int:
    """Candidates of a step on one GPU."""
    return settings.per_device_train_batch_size * settings.gradient_accumulation_steps
