"""sealtune keeps aligned language models safe while they are fine-tuned: rank the rows, keep the best, prove it."""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sealtune.api import evaluate, guard, rank, repair, score, select, tune

logging.getLogger("sealtune").addHandler(logging.NullHandler())  # silent unless logging is configured

__version__ = version("sealtune")
__all__ = ["__version__", "evaluate", "guard", "rank", "repair", "score", "select", "tune"]


def __getattr__(name: str) -> Any:
    """The verbs, imported when first used: torch and transformers take seconds to load."""
    if name in __all__:
        return getattr(import_module("sealtune.api"), name)
    raise AttributeError(f"module 'sealtune' has no attribute {name!r}")
