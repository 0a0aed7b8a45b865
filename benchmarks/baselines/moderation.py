"""Moderation: the filter in common use today, a small classifier of offensive language applied to the answers.

It knows words, not harm: a polite answer to a harmful request passes. Only answers are classified: they are what the
model is trained on, and a calm answer to an abusive user is a row to keep.

Source: alt-profanity-check, a calibrated linear SVM on TF-IDF of words, trained on some 200,000 labelled comments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from sealtune.core.errors import UserError
from sealtune.core.string_array import FloatArray, IntArray
from sealtune.core.types import Scores
from sealtune.data.encoded import Encoded
from sealtune.ranking.job import Job
from sealtune.ranking.ngrams import BLOCK, blocks

Classifier = Callable[[Sequence[str]], FloatArray]
Decode = Callable[[IntArray], str]


def rank(job: Job, decode: Decode, block: int = BLOCK) -> Scores:
    """Minus the probability that the answer is offensive, in [-1, 0].

    Args:
        job: the rows.
        decode: the text of token ids (T,), without special tokens.
        block: rows classified at once.

    Raises:
        UserError: the classifier's package is not installed.
    """
    rows, classify = job.candidates, load_classifier()
    score = np.empty(len(rows))
    for start, stop in blocks(rows, block):
        score[start:stop] = -classify([answer(rows, i, decode) for i in range(start, stop)])
    return Scores.unweighted(rows.ids, rows.source, score, visits=1)


def load_classifier() -> Classifier:
    """A function from texts to probabilities, (N,) in [0, 1]. The package unpickles its weights on import."""
    try:
        from profanity_check import predict_prob
    except ImportError:
        raise UserError("moderation needs the package alt-profanity-check; pip install 'sealtune[dev]'") from None
    classifier: Classifier = predict_prob
    return classifier


def answer(rows: Encoded, i: int, decode: Decode) -> str:
    """The text of all answers of row i, one line per turn."""
    tokens, mask = rows.row(i)
    return "\n".join(decode(turn) for turn in _turns(tokens.astype(np.int64), mask))


def _turns(tokens: IntArray, mask: npt.NDArray[np.bool_]) -> Iterator[IntArray]:
    """The response tokens of each turn: decoded together, the last word of a turn would join the next turn's first."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    for start, stop in edges.reshape(-1, 2):
        yield tokens[start:stop]
