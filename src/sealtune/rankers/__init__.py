"""Rankers, one file a method: the file's name is its name in the config (``rank.method``)."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sealtune.config import Config
from sealtune.encoded import Encoded
from sealtune.records import IntArray, RunError, Scores, UserError, did_you_mean
from sealtune.texts import Texts

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from sealtune.train import StepRecord

State = dict[str, "Tensor"]
OnStep = Callable[["StepRecord", int, Callable[[], State]], None]
"""Called after every step with its record, the number of steps in all, and what to call for a checkpoint."""


def no_texts(ids: IntArray) -> str:
    """The decoder of a caller that has none. Raises RunError."""
    raise RunError("rank: this ranker reads texts, and its caller gives none (Job.decode)")


@dataclass(frozen=True)
class Job:
    """What a ranker is given.

    ``load_model(full)`` gives the language model; ``full``: all of it will be trained. ``decode`` gives the text of
    token ids (T,), without special tokens.
    """

    candidates: Encoded
    safe: Encoded
    config: Config
    load_model: Callable[[bool], PreTrainedModel]
    on_step: OnStep = field(default=lambda record, total, state: None)
    resume: State | None = None
    decode: Callable[[IntArray], str] = no_texts


def names() -> list[str]:
    """The rankers there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def check(method: str) -> None:
    """Raise UserError, naming the nearest ranker, where there is none of this name."""
    if method not in names():
        raise UserError(f"rank.method: {unknown(method, names())}")


def unknown(method: str, known: list[str]) -> str:
    """That there is no such ranker, the nearest of those known, and all of them."""
    hint = did_you_mean(method, known, cutoff=0.4)
    return " ".join(filter(None, [f"no ranker {method!r};", hint, f"there are {', '.join(known)}"]))


def rank(job: Job) -> Scores:
    """Scores of all candidates, in their order, by the ranker that the config names.

    The ranker sees both sets sorted by id, so the order of the input file changes nothing.
    """
    method = job.config.rank.method
    check(method)
    order, safe_order = (Texts.of(rows.ids).order() for rows in (job.candidates, job.safe))
    sorted_job = replace(job, candidates=job.candidates.take(order), safe=job.safe.take(safe_order))
    scores: Scores = importlib.import_module(f"{__name__}.{method}").rank(sorted_job)
    return strike(scores.take(np.argsort(order)))


def strike(scores: Scores) -> Scores:
    """The scores with rows that have none, since their losses are not finite, ranked last."""
    bad = ~np.isfinite(scores.score)
    if not bad.any():
        return scores
    fine = scores.score[~bad]
    last = fine.min() - max(np.ptp(fine), 1.0)
    faults = tuple(Texts.of(scores.ids).take(np.flatnonzero(bad)))
    return replace(scores, score=np.where(bad, last, scores.score), faults=faults)


def score(job: Job, selector: Mapping[str, npt.NDArray[Any]]) -> Scores:
    """Scores of rows never seen (``job.candidates``) by what an earlier ranking gave as its ``selector``.

    Raises:
        UserError: the ranker that the config names scores no rows but those that it ranked.
    """
    import torch

    saved = {name: torch.from_numpy(array) for name, array in selector.items()}
    scores: Scores = check_scores_unseen(job.config.rank.method).score(job, saved)
    return strike(scores)


def check_estimates(method: str) -> None:
    """Raise UserError where this ranker does not tell how many rows are unsafe."""
    check(method)
    if not getattr(importlib.import_module(f"{__name__}.{method}"), "ESTIMATES", False):
        raise UserError(
            f"select.keep_ratio: auto needs a ranker that estimates how many rows are unsafe, and {method} does not; "
            "rank with rank.method=shared, or give a share"
        )


def check_scores_unseen(method: str) -> ModuleType:
    """The ranker of this name. Raises UserError where it scores no rows but those that it ranked."""
    check(method)
    module = importlib.import_module(f"{__name__}.{method}")
    if not hasattr(module, "score"):
        raise UserError(f"rank.method: {method} scores only the rows that it ranks; rank with rank.method=shared")
    return module
