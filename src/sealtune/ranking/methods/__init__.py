"""Rankers, one file per method: the name of the file is the name in the config (``rank.method``)."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sealtune.core.errors import UserError, did_you_mean
from sealtune.core.string_array import StringArray
from sealtune.core.types import Scores
from sealtune.data.reasons import plural
from sealtune.ranking.job import Job, Ranker
from sealtune.ranking.selection import decided

logger = logging.getLogger(__name__)


def names() -> list[str]:
    """The names of all rankers."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_ranker(method: str) -> Ranker:
    """The ranker of this name. Raises UserError that names the nearest one if there is none."""
    if method not in names():
        raise UserError(f"rank.method: {unknown(method, names())}")
    ranker: Ranker = importlib.import_module(f"{__name__}.{method}").RANKER
    return ranker


def unknown(method: str, known: list[str]) -> str:
    """Says that there is no such ranker, and names the nearest and all known ones."""
    hint = did_you_mean(method, known, cutoff=0.4)
    return " ".join(filter(None, [f"no ranker {method!r};", hint, f"known: {', '.join(known)}"]))


def rank(job: Job) -> Scores:
    """Scores of all candidates, in their order, by the ranker that the config names.

    The ranker sees both sets sorted by id, so the order of the input file cannot change the scores.
    """
    ranker = load_ranker(job.config.rank.method)
    if job.decisions and not ranker.learns_from_decisions:
        job = _join_safe_set(job)
    order, safe_order = (StringArray.of(rows.ids).argsort() for rows in (job.candidates, job.safe))
    sorted_job = replace(job, candidates=job.candidates.take(order), safe=job.safe.take(safe_order))
    scores = ranker.rank(sorted_job)
    return rank_non_finite_last(scores.take(np.argsort(order)))


def _join_safe_set(job: Job) -> Job:
    """The job of a ranker that does not learn from decisions, with the rows that people kept in the safe set."""
    kept, dropped = decided(job.decisions, "keep"), decided(job.decisions, "drop")
    logger.info(
        "rank: %s marked keep joined the safe set; %s cannot learn from the %s marked drop",
        *(plural(len(kept), "row"), job.config.rank.method, plural(len(dropped), "row")),
    )
    return replace(job, safe=job.safe.extend(job.candidates.isin(kept)) if kept else job.safe, decisions={})


def score(job: Job, selector: Mapping[str, npt.NDArray[Any]]) -> Scores:
    """Scores of rows that were not ranked (``job.candidates``), from the ``selector`` of an earlier ranking.

    Raises:
        UserError: the ranker that the config names scores only the rows that it ranks.
    """
    import torch

    saved = {name: torch.from_numpy(array) for name, array in selector.items()}
    ranker = require_scores_unseen_rows(job.config.rank.method)
    assert ranker.score is not None
    return rank_non_finite_last(ranker.score(job, saved))


def rank_non_finite_last(scores: Scores) -> Scores:
    """The scores, with rows whose loss was not finite, and whose score therefore is not, ranked last."""
    bad = ~np.isfinite(scores.score)
    if not bad.any():
        return scores
    finite = scores.score[~bad]
    last = finite.min() - max(np.ptp(finite), 1.0)
    ids = tuple(StringArray.of(scores.ids).take(np.flatnonzero(bad)))
    return replace(scores, score=np.where(bad, last, scores.score), non_finite=ids)


def require_estimates_unsafe_share(method: str) -> None:
    """Raise UserError if this ranker does not estimate how many rows are unsafe."""
    if not load_ranker(method).estimates_unsafe_share:
        raise UserError(
            f"select.keep_ratio: auto needs a ranker that estimates how many rows are unsafe, and {method} does not; "
            "rank with rank.method=probe, or set the ratio yourself"
        )


def require_scores_unseen_rows(method: str) -> Ranker:
    """The ranker of this name. Raises UserError if it scores only the rows that it ranks."""
    ranker = load_ranker(method)
    if ranker.score is None:
        raise UserError(f"rank.method: {method} scores only the rows that it ranks; rank with rank.method=probe")
    return ranker
