"""What a ranker is given, and what it states about itself: its abilities and its cost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from sealtune.core.config import Config, RankConfig
from sealtune.core.types import Decision, Scores
from sealtune.data.encoded import Encoded
from sealtune.models.state_dict import State
from sealtune.ranking.progress import OnStep

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Job:
    """What a ranker is given.

    ``load_model(full)`` returns the language model; with ``full`` all of its weights will be trained. ``decisions`` of
    people about candidates, by id, are given to rankers that learn from them (``Ranker.learns_from_decisions``).
    ``unusable`` are the ids of candidates that are not ranked.
    """

    candidates: Encoded
    safe: Encoded
    config: Config
    load_model: Callable[[bool], PreTrainedModel]
    on_step: OnStep = field(default=lambda record, total, state: None)
    resume: State | None = None
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    unusable: Collection[str] = ()


class Amounts(NamedTuple):
    """How much there is to rank: candidates, tokens per row, and rows of the safe set, assumed to be as long."""

    rows: int
    tokens: float
    safe_rows: int


SCORE_BYTES = 40
"""Host bytes per candidate of the result: five columns of eight bytes, complete in every process."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a ranking takes, from which GPU memory, disk and hours are estimated.

    Attributes:
        forward: rows that go forward through the model; a row counts once per pass.
        backward: rows that go backward through it.
        players: adapters, or full models, that are trained together; 0 if no language model is loaded.
        host_bytes: memory per candidate in each process, without ids and tokens.
        stored_states: hidden states per candidate that are kept in a scratch file, as float32.
        resumable: whether checkpoints are written.
    """

    forward: float = 0.0
    backward: float = 0.0
    players: int = 0
    host_bytes: float = SCORE_BYTES
    stored_states: int = 0
    resumable: bool = False


@dataclass(frozen=True)
class Ranker:
    """One ranker. Every file of ``ranking/methods`` ends with one, named ``RANKER``.

    Attributes:
        rank: scores all candidates.
        cost: what that takes.
        score: scores rows that were not ranked, from what ``rank`` saved as ``Scores.selector``; None if it cannot.
        learns_from_decisions: whether ``rank`` reads ``Job.decisions``; for the others, rows that people keep join the
            safe set, and rows that they drop teach nothing.
        estimates_unsafe_share: whether ``Scores.probe_logit`` is set, from which the share of unsafe rows is estimated.
        needs_safe_set: whether it reads ``Job.safe``, which is empty otherwise.
    """

    rank: Callable[[Job], Scores]
    cost: Callable[[RankConfig, Amounts], Cost]
    score: Callable[[Job, Mapping[str, Tensor]], Scores] | None = None
    estimates_unsafe_share: bool = False
    learns_from_decisions: bool = False
    needs_safe_set: bool = True
