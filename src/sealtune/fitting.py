"""Tensors that come back from a file: they must fit what takes them, or a run would end in the midst of its work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from sealtune.records import UserError

CHECKPOINT = (
    "resume_from_checkpoint: the checkpoint does not fit this run ({}); another version may have written it: "
    "delete it, or start with resume_from_checkpoint=false"
)
RANKER = "score: the saved ranker does not fit ({}); another version saved it: rank again"


@contextmanager
def taking_back(told: str = CHECKPOINT) -> Iterator[None]:
    """Whatever a state that does not fit raises within the block, as one line. Raises UserError."""
    try:
        yield
    except (LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(told.format(why)) from error


def require_alike(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise ValueError that names a tensor which ``own`` has and ``state`` has not, or of another shape."""
    for name, mine in own.items():
        if name not in state:
            raise ValueError(f"{name} is missing")
        if state[name].shape != mine.shape:
            raise ValueError(f"{name} has the shape {tuple(state[name].shape)}, not {tuple(mine.shape)}")
