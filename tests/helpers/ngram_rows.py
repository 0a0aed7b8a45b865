"""Rows whose responses are random words from a range of tokens, and their n-grams listed the obvious way."""

import numpy as np
import pytest

from sealtune.core.config_io import build_config
from sealtune.data.encoded import Encoded
from sealtune.ranking.job import Job

SAFE_WORDS, OTHER_WORDS = (3, 60), (60, 300)


def rows_of(n, words, seed, prefix, prompt=(3, 300)):
    random = np.random.default_rng(seed)
    parts = []
    for _ in range(n):
        asked, answered = random.integers(*prompt, 4), random.integers(*words, random.integers(20, 60))
        parts.append((np.concatenate([asked, answered]), np.arange(4 + len(answered)) >= 4))
    return Encoded.join([f"{prefix}-{i:03d}" for i in range(n)], ["made"] * n, parts)


def with_other_prompts(n=30):
    """Rows twice: with equal responses and different prompts."""
    one, other = (rows_of(n, (3, 300), 0, "row", prompt) for prompt in (SAFE_WORDS, OTHER_WORDS))
    replaced = Encoded(other.ids, other.source, other.tokens.copy(), one.mask, one.bounds)
    replaced.tokens[one.mask] = one.tokens[one.mask]
    assert not np.array_equal(one.tokens, replaced.tokens)
    return one, replaced


def ngram_lists(rows):
    """The unigrams and bigrams of the response tokens of each row."""
    for i in range(len(rows)):
        tokens, mask = (part.tolist() for part in rows.row(i))
        own = [(t,) for t, masked in zip(tokens, mask, strict=True) if masked]
        yield own + [(tokens[j - 1], tokens[j]) for j in range(1, len(tokens)) if mask[j - 1] and mask[j]]


def job_without_model(candidates, safe, method="dsir"):
    config = build_config({"model_name_or_path": "none", "rank": {"method": method}})
    return Job(candidates, safe, config, lambda full: pytest.fail("no model is needed"))
