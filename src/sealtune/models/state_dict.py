"""Saving and restoring tensors: what can be resumed, and whether restored tensors fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor

from sealtune.core.errors import UserError

State = dict[str, Tensor]

CHECKPOINT = (
    "resume_from_checkpoint: the checkpoint does not fit this run ({}); another version may have written it: "
    "delete it, or start with resume_from_checkpoint=false"
)
SAVED_RANKER = "score: the saved ranker does not fit ({}); another version saved it: rank again"


class Stateful(Protocol):
    """Anything that changes during a run, can be saved between two steps, and resumes from there bit for bit."""

    def state_dict(self) -> State:
        """The tensors that a resumed run needs."""

    def load_state_dict(self, state: State) -> None:
        """Restore what ``state_dict`` returned. Raises LookupError or ValueError if it does not fit."""


def gather_states(parts: Mapping[str, Stateful]) -> State:
    """The states of all parts in one dictionary; the name of a part is the prefix of its keys."""
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


def restore_states(parts: Mapping[str, Stateful], state: State) -> None:
    """Restore every part from what ``gather_states`` returned. Raises as the parts do."""
    for name, part in parts.items():
        part.load_state_dict(strip_prefix(f"{name}.", state))


def strip_prefix(prefix: str, state: Mapping[str, Tensor]) -> State:
    """The entries whose keys start with ``prefix``, without the prefix."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


@contextmanager
def restoring(message: str = CHECKPOINT) -> Iterator[None]:
    """Convert the errors of a state that does not fit into one line. Raises UserError.

    Args:
        message: The line; ``{}`` is replaced by the cause.
    """
    try:
        yield
    except (LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        cause = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(message.format(cause)) from error


def check_shapes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError if ``state`` lacks a tensor of ``expected``, or has it with another shape."""
    for name, tensor in expected.items():
        if name not in state:
            raise ValueError(f"{name} is missing")
        if state[name].shape != tensor.shape:
            raise ValueError(f"{name} has the shape {tuple(state[name].shape)}, not {tuple(tensor.shape)}")
