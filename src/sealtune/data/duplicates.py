"""Rows that occur more than once: exactly, by the hash of their conversations, and nearly, by MinHash.

Prompts are compared by their words alone, and twins, which share words but not their meaning, by TF-IDF.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from sealtune.core.types import Sample
from sealtune.data.row_store import Samples

if TYPE_CHECKING:
    from datasketch import MinHash, MinHashLSH

SHINGLE_WORDS = 3
PERMUTATIONS = 128
SIMILARITY = 0.8
"""Jaccard similarity of the word shingles of rows that count as near-duplicates."""
MAX_COMPARED = 20_000
"""Rows of a set whose near-duplicates are looked for: the first ones."""
PROMPT_SIMILARITY = 0.7
"""Jaccard similarity of the words and pairs of words of prompts that count as nearly the same."""
TWIN_SIMILARITY = 0.3
"""Cosine similarity, by TF-IDF of 3 to 5 characters, from which a prompt looks like another one."""
MAX_TWINS_COMPARED = 2_000
"""Prompts of each side among which twins are looked for: the first ones."""
CHARACTERS_COMPARED = 1_000
"""Characters of a prompt that are compared with others."""
WORD = re.compile(r"\w+")


class SharedPrompts(NamedTuple):
    """How many prompts others have, too: with the same words, and with the same or nearly the same."""

    exact: int
    near: int


def count_repeats(samples: Samples) -> int:
    """The number of rows whose conversation another row before them has."""
    hashes = samples.content_hashes()
    return len(hashes) - len(np.unique(hashes))


def count_shared(candidates: Samples, safe: Samples) -> int:
    """The number of candidates whose conversation is in the safe set."""
    return int(np.isin(candidates.content_hashes(), safe.content_hashes()).sum())


def count_near_duplicates(samples: Samples) -> int:
    """The number of rows, of the first MAX_COMPARED, that are like a row before them, exact duplicates included."""
    index, found = _new_index(), 0
    for i, sketch in enumerate(_sketches(samples)):
        if index.query(sketch):
            found += 1
        else:
            index.insert(str(i), sketch)
    return found


def count_near_shared(candidates: Samples, safe: Samples) -> int:
    """The number of candidates, of the first MAX_COMPARED, that are like a row of the safe set, or the same."""
    index = _new_index()
    for i, sketch in enumerate(_sketches(safe)):
        index.insert(str(i), sketch)
    return sum(bool(index.query(sketch)) for sketch in _sketches(candidates))


def prompt_text(sample: Sample) -> str:
    """What the user says before the last answer: without system prompts, which many rows share."""
    last = max((i for i, turn in enumerate(sample.messages) if turn.role == "assistant"), default=len(sample.messages))
    return "\n".join(turn.content for turn in sample.messages[:last] if turn.role == "user")


def count_shared_prompts(prompts: Iterable[str], others: Iterable[str]) -> SharedPrompts:
    """The number of the first MAX_COMPARED prompts that are among others: all of these exactly, as many nearly.

    Case and punctuation do not count; a prompt without any word equals none.
    """
    own = [words for words in map(_words, islice(prompts, MAX_COMPARED)) if words]
    index = _new_index(PROMPT_SIMILARITY)
    for i, sketch in enumerate(_sketch(map(_prompt_shingles, own))):
        index.insert(i, sketch)
    near: set[int] = set()
    wanted = {" ".join(words) for words in own}
    texts: set[str] = set()
    for n, words in enumerate(map(_words, others)):
        if (text := " ".join(words)) in wanted:
            texts.add(text)
        if n < MAX_COMPARED and words:
            near.update(index.query(next(_sketch([_prompt_shingles(words)]))))
    exact = {i for i, words in enumerate(own) if " ".join(words) in texts}
    return SharedPrompts(len(exact), len(exact | near))


def have_twins(prompts: Sequence[str], others: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Whether each of the first MAX_TWINS_COMPARED prompts looks like one of as many others, (P,).

    Source: TWIN_SIMILARITY is exceeded by 72 % of the default evaluation prompts with a twin, and by none compared with
    ordinary tasks.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    own, other = ([text[:CHARACTERS_COMPARED] for text in side[:MAX_TWINS_COMPARED]] for side in (prompts, others))
    if not any(map(_words, own)) or not any(map(_words, other)):
        return np.zeros(len(own), np.bool_)
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True).fit_transform([*own, *other])
    alike = vectors[: len(own)] @ vectors[len(own) :].T
    found: npt.NDArray[np.bool_] = alike.max(axis=1).toarray().ravel() >= TWIN_SIMILARITY
    return found


def _new_index(similarity: float = SIMILARITY) -> MinHashLSH:
    from datasketch import MinHashLSH

    return MinHashLSH(threshold=similarity, num_perm=PERMUTATIONS)


def _sketches(samples: Samples) -> Iterator[MinHash]:
    chosen: Iterator[Sample] = islice(samples, MAX_COMPARED)
    return _sketch(map(_shingles, chosen))


def _sketch(shingles: Iterable[Sequence[bytes]]) -> Iterator[MinHash]:
    from datasketch import MinHash

    sketches: Iterator[MinHash] = MinHash.generator(shingles, num_perm=PERMUTATIONS)
    return sketches


def _words(text: str) -> list[str]:
    return WORD.findall(text.casefold())


def _prompt_shingles(words: Sequence[str]) -> list[bytes]:
    """Words and pairs of words: prompts are too short for longer sequences."""
    return [word.encode() for word in words] + [f"{one} {two}".encode() for one, two in pairwise(words)]


def _shingles(sample: Sample) -> list[bytes]:
    words = WORD.findall(" ".join(turn.content for turn in sample.messages).lower())
    return list(_windows(words)) or [" ".join(words).encode()]


def _windows(words: Sequence[str]) -> Iterator[bytes]:
    for i in range(len(words) - SHINGLE_WORDS + 1):
        yield " ".join(words[i : i + SHINGLE_WORDS]).encode()
