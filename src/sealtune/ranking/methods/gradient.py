"""Gradient: does a row pull the model in the same direction as the safe set? Cosines of projected LoRA gradients.

No training. A fresh adapter has A random and B = 0. Its output is B A x, so the gradient by A is a product with B:
zero. Only the gradient by B carries information, so only it is computed. Each row costs its own forward and backward
pass.

Source: Xia et al. (ICML 2024), arXiv 2402.04333 (LESS), section 3, at the untouched model and with the plain gradient
in place of Adam's; He, Xia, Henderson (COLM 2024), arXiv 2404.01099, section 3 (the mean gradient of anchors).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from sealtune.core import distributed
from sealtune.core.config import RankConfig
from sealtune.core.errors import UserError
from sealtune.core.string_array import FloatArray
from sealtune.core.types import Scores
from sealtune.data.batches import Batch
from sealtune.data.encoded import Encoded
from sealtune.models.adapters import Player, lora_players
from sealtune.ranking.job import Amounts, Cost, Job, Ranker
from sealtune.ranking.progress import NonFiniteRows, Progress, finite_mean

WIDTH = 512
"""Projected dimensions: cosines are kept to about 1 / sqrt(512) = 0.04."""


def rank(job: Job) -> Scores:
    """Cosine between the gradient of the row and the mean of the safe rows' normalised gradients, in [-1, 1]."""
    rows, size = job.candidates, job.config.rank.per_device_train_batch_size  # of progress reports; rows pass alone
    total = -(-len(job.safe) // size) - (-len(rows) // size)
    gradients = RowGradients(job, Progress(job.on_step, total), size)
    safe, _ = gradients.of(job.safe, safe=True)
    direction = _unit(_unit(safe[safe.isfinite().all(1)]).mean(0))
    candidates, losses = gradients.of(rows, safe=False)
    score = (_unit(candidates) @ direction).numpy()
    return Scores.unweighted(rows.ids, rows.source, score, loss=losses, visits=1)


def cost(settings: RankConfig, amounts: Amounts) -> Cost:
    """One forward and one backward pass over both sets."""
    rows = amounts.rows + amounts.safe_rows
    return Cost(forward=rows, backward=rows, players=1)


class RowGradients:
    """The untouched model with one fresh adapter, whose gradient is computed row by row."""

    def __init__(self, job: Job, progress: Progress, size: int) -> None:
        settings = job.config.rank.model_copy(
            update={"lora_dropout": 0.0}
        )  # nothing is trained: it would only be noise
        model = job.load_model(False)
        self.player: Player = lora_players(model, settings, ["theta"], job.config.seed)["theta"]
        self.parameters = [p for name, p in model.named_parameters() if ".lora_B." in name]
        if not self.parameters:
            raise UserError("lora_target_modules: rank.method=gradient needs linear layers among them")
        for parameter in self.player.parameters:
            parameter.requires_grad_(False)
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.sketch = Sketch(self.parameters, job.config.seed)
        self.progress, self.size, self.max_non_finite = progress, size, job.config.rank.max_non_finite

    def of(self, rows: Encoded, *, safe: bool) -> tuple[Tensor, FloatArray]:
        """Projected gradients (N, WIDTH), float64 on the CPU, and losses (N,) of all rows."""
        gradients, losses = torch.empty(len(rows), WIDTH, dtype=torch.float64), np.empty(len(rows))
        non_finite = NonFiniteRows(rows, self.max_non_finite)
        for start in range(0, len(rows), self.size):
            batch = Batch(torch.arange(start, min(start + self.size, len(rows))), rows)
            gradients[batch.rows], found = self._rows(batch)
            losses[batch.rows.numpy()] = found.numpy()
            non_finite.check(batch, found)
            name = "safe_loss" if safe else "candidate_loss"
            self.progress.report(len(found), batch.token_count, **{name: finite_mean(found)})
        return gradients, losses

    def _rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Projected gradients (B, WIDTH) and losses (B,) of a batch, from all processes."""
        gradients = torch.zeros(len(batch.rows), WIDTH, dtype=torch.float64)
        losses = torch.zeros(len(batch.rows), dtype=torch.float64)
        for place, counts in distributed.split_between_processes(range(len(batch.rows))):
            gradient, loss = self._row(Batch(batch.rows[place : place + 1], batch.encoded))
            if counts:
                gradients[place], losses[place] = gradient, loss
        return distributed.all_reduce_sum(gradients), distributed.all_reduce_sum(losses)

    def _row(self, batch: Batch) -> tuple[Tensor, float]:
        (piece,) = batch.split(1)
        loss = self.player.model.losses(piece.tokens, piece.mask).sum()
        gradients = torch.autograd.grad(loss, self.parameters)
        return self.sketch(gradients).cpu().double(), float(loss.detach())


class Sketch:
    """A random projection to ``WIDTH`` dimensions that keeps inner products in expectation.

    Each coordinate is added, with a random sign, to one dimension: the sparsest Johnson-Lindenstrauss map. It stores
    five bytes per coordinate and no (P, WIDTH) matrix, and a row costs O(P). Its variance is that of a Gaussian map up
    to a constant. Coordinates are shuffled and summed in a fixed order, so the sums repeat on a GPU, too.

    Source: Charikar, Chen, Farach-Colton (2002), "Finding frequent items in data streams", section 3; Weinberger et al.
    (ICML 2009), arXiv 0902.2206, lemma 2 for the inner products.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        self.orders: list[Tensor] = []
        self.signs: list[Tensor] = []
        for parameter in parameters:
            n, device = parameter.numel(), parameter.device
            self.orders.append(torch.randperm(n, generator=random, dtype=torch.int32).to(device))
            self.signs.append((torch.randint(2, (n,), generator=random, dtype=torch.int8) * 2 - 1).to(device))

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        """The projection (WIDTH,) of tensors shaped like the parameters."""
        total = torch.zeros(WIDTH, device=tensors[0].device)
        for tensor, order, signs in zip(tensors, self.orders, self.signs, strict=True):
            mixed = tensor.float().flatten()[order] * signs
            padded = nn.functional.pad(mixed, (0, -len(mixed) % WIDTH))
            total += padded.view(-1, WIDTH).sum(0).to(total.device)
        return total


def _unit(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors, dim=-1)


RANKER = Ranker(rank, cost)
