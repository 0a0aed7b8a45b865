"""What throughput.py and gpu.py time: some steps of plain fine-tuning, of ranking, of ranking as it was released.

  sft          a training step of TRL's SFTTrainer
  tuner        the same by sealtune's own trainer
  algorithm_2  a ranking step without theta_hat, candidates' backward pass included (gamma > 0)
  algorithm_1  a ranking step with theta_hat
  released     a ranking step with the semantics of the released code (released.py)
  fused        algorithm_2 with the candidates and the safe rows in one pass; not a setting of the tool
  compiled     algorithm_2 with rank.torch_compile

All meet the same rows, in the batches in which ranking draws them, neighbours in length together. Only ``released``
does not group rows: its batches are drawn from the same sets at random, as that code draws them.

Every token that passes through the model in a step counts once a pass: for sft and tuner the rows of the batch; for
algorithm_1 the candidates twice and the safe rows; for all others the candidates and the safe rows. Padding does not
count.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch

from sealtune.data.batches import Batch, Batches
from sealtune.ranking.bilevel import Step

VARIANTS = ("sft", "algorithm_2", "algorithm_1", "released")
IDEAS = ("tuner", "fused", "compiled")


@dataclass
class Timed:
    """One step: ``tokens`` without padding, ``positions`` with it, ``model_seconds`` in forward and backward passes."""

    tokens: int
    positions: int
    seconds: float
    model_seconds: float


class Meter:
    """Watches a model, step by step. Time within it is told on a CPU only: a GPU works while Python goes on."""

    def __init__(self, model) -> None:
        self.steps: list[Timed] = []
        self._positions, self._model_seconds, self._depth = 0, 0.0, 0
        self._started = time.perf_counter()
        model.get_input_embeddings().register_forward_pre_hook(self._count)
        self.watch(torch.autograd, "backward")

    @torch.compiler.disable  # what it counts would be a new graph each time
    def _count(self, module, inputs) -> None:
        self._positions += inputs[0].numel()

    def watch(self, owner, name: str) -> None:
        """Count the time within a function of ``owner`` as the model's."""
        function = getattr(owner, name)

        def watched(*args, **kwargs):
            with self._inside():
                return function(*args, **kwargs)

        setattr(owner, name, watched)

    @contextmanager
    def _inside(self):
        started, self._depth = time.perf_counter(), self._depth + 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._model_seconds += time.perf_counter() - started

    def end_step(self, tokens: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.steps.append(Timed(tokens, self._positions, now - self._started, self._model_seconds))
        self._positions, self._model_seconds, self._started = 0, 0.0, now


class InTurn:
    """Batches of these rows (K,) of a data set, as they stand; again from the first after the last."""

    def __init__(self, encoded, rows: torch.Tensor, size: int) -> None:
        self.encoded, self.rows, self.size = encoded, rows, size
        self.per_epoch = -(-len(rows) // size)

    def at(self, step: int) -> Batch:
        start = step % self.per_epoch * self.size
        return Batch(self.rows[start : start + self.size], self.encoded)


def drawn(encoded, size: int, count: int, seed: int) -> InTurn:
    """The first ``count`` batches of a ranking."""
    size = min(size, len(encoded))
    batches = Batches(encoded, size, seed)
    return InTurn(encoded, torch.cat([batches.at(step).rows for step in range(count)]), size)


def measure(variant: str, model, tokenizer, candidates, safe, config, count: int) -> list[dict]:
    """``count`` steps of a variant on rows drawn by the config's seed; the first ones warm up."""
    run = {"released": released, "fused": fused, "compiled": compiled, "sft": sft, "tuner": tuner}.get(variant, ranking)
    size = config.rank.per_device_train_batch_size
    batches, safe_batches = (drawn(rows, size, count, config.seed) for rows in (candidates, safe))
    meter = Meter(model)
    run(meter, model, tokenizer, batches, safe_batches, config, count)
    return [asdict(step) for step in meter.steps]


def sft(meter, model, tokenizer, batches, safe, config, count) -> None:
    from trl import SFTTrainer

    tune(SFTTrainer, meter, model, tokenizer, batches, config, count)


def tuner(meter, model, tokenizer, batches, safe, config, count) -> None:
    from sealtune.tuning.trainer import ResponseTrainer

    tune(ResponseTrainer, meter, model, tokenizer, batches, config, count)


def tune(trainer, meter, model, tokenizer, batches, config, count) -> None:
    from sealtune.tuning import train as finetune

    class InOrder(trainer):
        """Takes the rows as they stand, where the trainer's own grouping would put the longest first."""

        def _get_train_sampler(self, *args):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    config = config.model_copy(update={"tune": config.tune.model_copy(update={"max_steps": count})})
    meter.watch(trainer, "compute_loss")
    rows = batches.encoded.take(batches.rows.numpy())
    finetune.train(model, tokenizer, rows, config, lambda *told: meter.end_step(told[3]), InOrder)


def ranking(meter, model, tokenizer, batches, safe, config, count, change=lambda ranking: None) -> None:
    """Steps of the ranking loop, after ``change`` to it."""
    from sealtune.models.causal_lm import LanguageModel
    from sealtune.ranking.job import Job
    from sealtune.ranking.loop import SealLoop
    from sealtune.ranking.methods.seal import make_selector
    from sealtune.ranking.safe_set import PLAYERS, make_players

    meter.watch(LanguageModel, "losses")
    job = Job(batches.encoded, safe.encoded, config, lambda full: model)
    players = make_players(job, PLAYERS[config.rank.algorithm])
    selector = make_selector(len(batches.encoded), config.rank)
    loop = SealLoop(batches.encoded, safe.encoded, players, selector, config.rank, config.seed)
    loop.candidates, loop.safe = batches, safe
    change(loop)
    for record, _ in zip(loop.run(), range(count), strict=False):
        meter.end_step(record.tokens)


def compiled(meter, model, tokenizer, batches, safe, config, count) -> None:
    config = config.model_copy(update={"rank": config.rank.model_copy(update={"torch_compile": True})})
    ranking(meter, model, tokenizer, batches, safe, config, count)


def fused(*args) -> None:
    def change(loop) -> None:
        theta, selector, n = loop.players["theta"], loop.selector, len(loop.candidates.encoded)
        theta.micro_batch *= 2
        rows = loop.candidates.encoded.extend(loop.safe.encoded)

        def step(gamma: float) -> Step:
            batch, safe = loop.candidates.at(loop.step), loop.safe.at(loop.step)
            both = Batch(torch.cat([batch.rows, n + safe.rows]), rows)
            weights = selector.weights(batch.rows)
            shares = torch.cat(
                [gamma * weights / len(weights), torch.full((len(safe.rows),), (1 - gamma) / len(safe.rows))]
            )
            losses, safe_losses = theta.learn(both, shares * len(both.rows)).split([len(batch.rows), len(safe.rows)])
            theta.descend()
            selector.descend(batch.rows, losses)
            return Step(batch, safe, gamma, safe_losses, losses, None)

        loop._penalty_step = step

    ranking(*args, change)


def released(meter, model, tokenizer, batches, safe, config, count) -> None:
    import released as code

    run = code.Released(model, batches.encoded, safe.encoded, config.rank, config.seed)
    meter.watch(run, "losses")
    for part in (batches, safe):
        part.rows = torch.randperm(len(part.encoded))[: len(part.rows)]
    for step in range(count):
        meter.end_step(run.step(batches.at(step).rows, safe.at(step).rows))
