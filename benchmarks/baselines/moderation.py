"""Moderation: the filter that users reach for today, a small classifier of offensive language over the answers.

It knows words, not harm: a polite answer to a harmful request passes. Answers alone are judged. They are what a row
teaches, and what such a filter guards in a product; a calm answer to an abusive user is a row to keep.

Source: alt-profanity-check, a calibrated linear SVM on TF-IDF of words, taught with some 200,000 labelled comments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from sealtune.core.errors import UserError
from sealtune.core.string_array import FloatArray, IntArray
from sealtune.core.types import Scores
from sealtune.ranking.job import Job
from sealtune.ranking.ngrams import blocks
from sealtune.ranking.progress import Progress

Classifier = Callable[[Sequence[str]], FloatArray]


def rank(job: Job) -> Scores:
    """Minus the probability that the answer is offensive, in [-1, 0].

    Raises:
        UserError: the classifier's package is not installed.
        RunError: the caller gives no texts.
    """
    n, pieces = len(job.candidates), list(blocks(job.candidates))
    probabilities = load_classifier()
    progress = Progress(job.on_step, len(pieces))
    score = np.empty(n)
    for start, stop in pieces:
        score[start:stop] = -probabilities([answer(job, i) for i in range(start, stop)])
        progress.report(stop - start, 0)  # no token passes through a language model
    return Scores.unweighted(job.candidates, score, visits=1)


def load_classifier() -> Classifier:
    """StringArray to probabilities, (N,) in [0, 1]. Its weights are read on import, hence here and not above."""
    try:
        from profanity_check import predict_prob
    except ImportError:
        raise UserError(
            "rank.method=moderation needs the package alt-profanity-check; pip install 'sealtune[moderation]'"
        ) from None
    classifier: Classifier = predict_prob
    return classifier


def answer(job: Job, i: int) -> str:
    """The text of all answers of row i, a line each."""
    tokens, mask = job.candidates.row(i)
    return "\n".join(job.decode(turn) for turn in _runs(tokens.astype(np.int64), mask))


def _runs(tokens: IntArray, mask: npt.NDArray[np.bool_]) -> Iterator[IntArray]:
    """The learned tokens of each turn: decoded as one, a turn's last word would join the next one's first."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    for start, stop in edges.reshape(-1, 2):
        yield tokens[start:stop]
