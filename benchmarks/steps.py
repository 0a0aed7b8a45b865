"""What throughput.py and gpu.py time: some steps of plain fine-tuning, of ranking, of ranking as it was released.

  sft          a training step of TRL's SFTTrainer
  algorithm_2  a ranking step without theta_hat, candidates' backward pass included (gamma > 0)
  algorithm_1  a ranking step with theta_hat
  released     a ranking step with the semantics of the released code (released.py)
  fused        algorithm_2 with the candidates and the safe rows in one pass; not a setting of the tool
  compiled     algorithm_2 with rank.torch_compile

Every token that passes through the model in a step counts once a pass: for sft the rows of the batch; for algorithm_1
the candidates twice and the safe rows; for all others the candidates and the safe rows. Padding does not count.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch

from sealtune.bilevel import Step
from sealtune.data.batches import Batch

VARIANTS = ("sft", "algorithm_2", "algorithm_1", "released")
IDEAS = ("fused", "compiled")


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


def measure(variant: str, model, tokenizer, candidates, safe, config, count: int) -> list[dict]:
    """``count`` steps of a variant; the first ones warm up."""
    run = {"sft": sft, "released": released, "fused": fused, "compiled": compiled}.get(variant, ranking)
    meter = Meter(model)
    run(meter, model, tokenizer, candidates, safe, config, count)
    return [asdict(step) for step in meter.steps]


def sft(meter, model, tokenizer, candidates, safe, config, count) -> None:
    from trl import SFTTrainer

    from sealtune import finetune

    config = config.model_copy(update={"tune": config.tune.model_copy(update={"max_steps": count})})
    meter.watch(SFTTrainer, "compute_loss")
    finetune.train(model, tokenizer, candidates, config, lambda *told: meter.end_step(told[3]), SFTTrainer)


def ranking(meter, model, tokenizer, candidates, safe, config, count, change=lambda ranking: None) -> None:
    """Steps of the ranking loop, after ``change`` to it."""
    from sealtune import rankers
    from sealtune.language_model import LanguageModel
    from sealtune.players import PLAYERS, make_players
    from sealtune.rankers.seal import make_selector
    from sealtune.train import Ranking

    meter.watch(LanguageModel, "losses")
    players = make_players(rankers.Job(candidates, safe, config, lambda full: model), PLAYERS[config.rank.algorithm])
    selector = make_selector(len(candidates), config.rank)
    loop = Ranking(candidates, safe, players, selector, config.rank, config.seed)
    change(loop)
    for record, _ in zip(loop.run(), range(count), strict=False):
        meter.end_step(record.tokens)


def compiled(meter, model, tokenizer, candidates, safe, config, count) -> None:
    config = config.model_copy(update={"rank": config.rank.model_copy(update={"torch_compile": True})})
    ranking(meter, model, tokenizer, candidates, safe, config, count)


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


def released(meter, model, tokenizer, candidates, safe, config, count) -> None:
    import released as code

    run = code.Released(model, candidates, safe, config.rank, config.seed)
    meter.watch(run, "losses")
    size = config.rank.per_device_train_batch_size
    rows, safe_rows = (torch.randperm(len(encoded)) for encoded in (candidates, safe))
    for step in range(count):
        at = torch.arange(step * size, (step + 1) * size)
        meter.end_step(run.step(rows[at % len(rows)], safe_rows[at % len(safe_rows)]))
