"""What throughput.py and gpu.py time: steps of plain fine-tuning, of ranking, and of ranking as it was released.

  sft          a training step of TRL's SFTTrainer
  tuner        the same by sealtune's own trainer
  guard        the same with the guard, whose measurements are spread over the steps of a training of 250 steps
  algorithm_2  a ranking step without theta_hat, with the candidates' backward pass (gamma > 0)
  algorithm_1  a ranking step with theta_hat
  released     a ranking step with the semantics of the released code (baselines/released_step.py)
  fused        algorithm_2 with candidates and safe rows in one pass; not a setting of sealtune
  compiled     algorithm_2 with rank.torch_compile

All variants process the same rows in the batches that ranking draws, which group rows by length. Only ``released`` does
not group: it draws its batches at random from the same sets, as that code does.

A token counts once per pass through the model: for sft, tuner and guard the rows of the batch (not the safe rows, so
that the speeds compare the time that the task takes); for algorithm_1 the candidates
twice and the safe rows; for all others the candidates and the safe rows. Padding does not count.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch

from sealtune.data.batches import Batch, Batches
from sealtune.ranking.bilevel import Step

VARIANTS = ("sft", "algorithm_2", "algorithm_1", "released")
IDEAS = ("tuner", "guard", "fused", "compiled")
TRAINING_STEPS = 250
"""Steps of the training whose guard is measured: two epochs over 1000 rows."""


@dataclass
class TimedStep:
    """``tokens`` without padding, ``positions`` with it, ``model_seconds`` in forward and backward passes."""

    tokens: int
    positions: int
    seconds: float
    model_seconds: float


class Meter:
    """Measures a model step by step. ``model_seconds`` are right on a CPU only: a GPU works asynchronously."""

    def __init__(self, model) -> None:
        self.steps: list[TimedStep] = []
        self._positions, self._model_seconds, self._depth = 0, 0.0, 0
        self._started = time.perf_counter()
        model.get_input_embeddings().register_forward_pre_hook(self._count)
        self.watch(torch.autograd, "backward")

    @torch.compiler.disable  # the growing count would cause a new graph every time
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
        self.steps.append(TimedStep(tokens, self._positions, now - self._started, self._model_seconds))
        self._positions, self._model_seconds, self._started = 0, 0.0, now


class FixedBatches:
    """Consecutive batches of these rows (K,) of a data set, repeated from the first after the last."""

    def __init__(self, encoded, rows: torch.Tensor, size: int) -> None:
        self.encoded, self.rows, self.size = encoded, rows, size
        self.per_epoch = -(-len(rows) // size)

    def at(self, step: int) -> Batch:
        start = step % self.per_epoch * self.size
        return Batch(self.rows[start : start + self.size], self.encoded)


def first_batches(encoded, size: int, count: int, seed: int) -> FixedBatches:
    """The first ``count`` batches of a ranking."""
    size = min(size, len(encoded))
    batches = Batches(encoded, size, seed)
    return FixedBatches(encoded, torch.cat([batches.at(step).rows for step in range(count)]), size)


def measure(variant: str, model, tokenizer, candidates, safe, config, count: int) -> list[dict]:
    """``count`` steps of a variant, on rows drawn by the config's seed."""
    runs = {"released": released, "fused": fused, "compiled": compiled, "sft": sft, "tuner": tuner, "guard": guard}
    run = runs.get(variant, ranking)
    size = config.rank.per_device_train_batch_size
    batches, safe_batches = (first_batches(rows, size, count, config.seed) for rows in (candidates, safe))
    meter = Meter(model)
    run(meter, model, tokenizer, batches, safe_batches, config, count)
    return [asdict(step) for step in meter.steps]


def sft(meter, model, tokenizer, batches, safe, config, count) -> None:
    from trl import SFTTrainer

    tune(SFTTrainer, meter, model, tokenizer, batches, config, count)


def tuner(meter, model, tokenizer, batches, safe, config, count) -> None:
    from sealtune.tuning.trainer import ResponseTrainer

    tune(ResponseTrainer, meter, model, tokenizer, batches, config, count)


def guard(meter, model, tokenizer, batches, safe, config, count) -> None:
    """Steps with safe rows. What the guard measures before, ten times between and after them is timed apart: of so few
    steps every one would be watched.
    """
    from sealtune.tuning.guard import WATCHES
    from sealtune.tuning.guard_rows import GuardRows
    from sealtune.tuning.guarded_trainer import GuardedTrainer

    class Timed(GuardedTrainer):
        def add_guard(self, rows, settings, steps) -> None:
            started = time.perf_counter()
            super().add_guard(rows, settings, TRAINING_STEPS)
            self.anchoring, self.watching = time.perf_counter() - started, 0.0

        def watch(self) -> None:  # only the last step of so few is watched
            started = time.perf_counter()
            super().watch()
            self.watching = time.perf_counter() - started
            if self.state.global_step == self.state.max_steps:
                spent.append((self.anchoring + WATCHES * self.watching) / TRAINING_STEPS)

    spent: list[float] = []
    halves = torch.arange(len(safe.encoded)).numpy() % 2 == 0  # which row is of which half costs nothing
    tune(Timed, meter, model, tokenizer, batches, config, count, GuardRows(safe.encoded, halves))
    for step in meter.steps:
        step.seconds += spent[0]
        step.model_seconds += spent[0]


def tune(trainer, meter, model, tokenizer, batches, config, count, safe=None) -> None:
    from sealtune.tuning.train import train

    class InOrder(trainer):
        """Keeps the order of the rows; the trainer's own grouping would put the longest first."""

        def _get_train_sampler(self, *args):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    config = config.model_copy(update={"tune": config.tune.model_copy(update={"max_steps": count})})
    meter.watch(trainer, "compute_loss")
    rows = batches.encoded.take(batches.rows.numpy())

    def advance(step, total, rows, tokens, note) -> None:
        meter.end_step(tokens)

    train(model, tokenizer, rows, config, advance, InOrder, safe=safe)


def ranking(meter, model, tokenizer, batches, safe, config, count, change=lambda loop: None) -> None:
    """Steps of the SEAL loop, after ``change`` was applied to it."""
    from sealtune.models.causal_lm import CausalLM
    from sealtune.ranking.job import Job
    from sealtune.ranking.loop import SealLoop
    from sealtune.ranking.methods.seal import make_update
    from sealtune.ranking.safe_set import PLAYERS, make_players
    from sealtune.ranking.selector import FreeLogits

    meter.watch(CausalLM, "losses")
    job = Job(batches.encoded, safe.encoded, config, lambda full: model)
    players = make_players(job, PLAYERS[config.rank.algorithm])
    selector = FreeLogits(len(batches.encoded), make_update(config.rank), config.rank.weighting)
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
            weights = gamma * selector.weights(batch.rows) / len(batch.rows)
            safe_weights = torch.full((len(safe.rows),), (1 - gamma) / len(safe.rows))
            found = theta.learn(both, torch.cat([weights, safe_weights]) * len(both.rows))
            losses, safe_losses = found.split([len(batch.rows), len(safe.rows)])
            theta.descend()
            selector.descend(batch.rows, losses)
            return Step(batch, safe, gamma, safe_losses, losses, None)

        loop._penalty_step = step

    ranking(*args, change)


def released(meter, model, tokenizer, batches, safe, config, count) -> None:
    from benchmarks.baselines.released_step import ReleasedStep

    run = ReleasedStep(model, batches.encoded, safe.encoded, config.rank, config.seed)
    meter.watch(run, "losses")
    for part in (batches, safe):
        part.rows = torch.randperm(len(part.encoded))[: len(part.rows)]
    for step in range(count):
        meter.end_step(run.step(batches.at(step).rows, safe.at(step).rows))
