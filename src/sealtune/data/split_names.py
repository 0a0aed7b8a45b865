"""Splits by the names of files, folders and keys, as the hub names them."""

from __future__ import annotations

import re

_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLITS = {word: split for split, words in _WORDS.items() for word in words}


def split_of(name: str) -> str | None:
    """``train``, ``validation`` or ``test``, if a word of the name says so: ``test`` for ``my_test-2.jsonl``."""
    words = re.split(r"[-._ 0-9/]+", name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)
