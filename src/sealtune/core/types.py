"""What the rooms pass to each other: rows, scores, selections, prompts, responses, verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from sealtune.core.string_array import FloatArray, IntArray, StringArray


class Message(NamedTuple):
    """One turn of a conversation; role is ``system``, ``user``, ``assistant`` or ``tool``."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One usable row: an id given at the door, its conversation, and the row exactly as it was read.

    ``position`` is its place among all rows read, from 0, whatever was dropped before it.
    """

    id: str
    messages: tuple[Message, ...]
    source: str
    row: Mapping[str, Any] = field(repr=False)
    position: int = 0

    @property
    def prompt(self) -> str:
        """Everything before the last assistant turn, for showing."""
        return "\n".join(m.content for m in self.messages[: self._last])

    @property
    def response(self) -> str:
        """The last assistant turn, for showing."""
        return self.messages[self._last].content

    @property
    def _last(self) -> int:
        turns = (i for i, message in enumerate(self.messages) if message.role == "assistant")
        return max(turns, default=len(self.messages) - 1)


@dataclass(frozen=True, slots=True)
class Drop:
    """One row that will not be used, and why; ``reason`` is a short slug, ``detail`` a sentence."""

    id: str
    source: str
    reason: str
    detail: str
    row: Mapping[str, Any] = field(repr=False)
    position: int = 0


class Labels(Mapping[str, int]):
    """Ground truth by id, 1 = unsafe; ``truth`` int64 (N,) in the order of the ids."""

    def __init__(self, ids: Iterable[str], truth: IntArray) -> None:
        self.ids = StringArray.of(ids)
        self.truth = truth

    @classmethod
    def known(cls, labels: Mapping[str, int]) -> Labels:
        """These labels; themselves where they are such already."""
        return labels if isinstance(labels, Labels) else cls(labels, np.array(list(labels.values()), np.int64))

    def of(self, ids: Iterable[str]) -> IntArray:
        """The label of each of these ids (K,), -1 where none is known."""
        places = self.ids.index_in(ids)
        return np.append(self.truth, -1)[places]

    def __getitem__(self, row_id: str) -> int:
        label = int(self.of([row_id])[0])
        if label < 0:
            raise KeyError(row_id)
        return label

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Scores:
    """A ranking: one entry per row, in the order of ``ids``. Higher ``score`` means keep.

    Attributes:
        ids: N ids.
        source: the data set that each row came from, N names.
        score: (N,), finite; rows in ``non_finite`` are ranked last.
        weight: (N,), of mean 1 (softmax) or in (0, 2) (sigmoid); 1 if the ranker has no weights.
        loss: (N,), nats per response token; NaN if the ranker computes none.
        gap: (N,), nats per response token, loss of theta minus loss of theta-hat; NaN likewise.
        visits: (N,), how often each row was seen while ranking.
        standard_error: (N,), how far the score would move with other safe rows or other epochs; None if not estimated.
        probe_logit: (N,), the cross-fitted logit of a probe trained without the safe set, from which the share of unsafe
            rows is estimated; None if the ranker has no such probe.
        selector: arrays that score rows not ranked.
        non_finite: ids of rows whose loss was NaN or infinite.
    """

    ids: Sequence[str]
    source: Sequence[str]
    score: FloatArray
    weight: FloatArray
    loss: FloatArray
    gap: FloatArray
    visits: IntArray
    standard_error: FloatArray | None = None
    probe_logit: FloatArray | None = None
    selector: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    non_finite: tuple[str, ...] = ()

    @classmethod
    def unweighted(
        cls,
        ids: Sequence[str],
        source: Sequence[str],
        score: FloatArray,
        *,
        loss: FloatArray | None = None,
        gap: FloatArray | None = None,
        visits: int = 0,
        **optional: Any,
    ) -> Scores:
        """The scores of a ranker that has no weights and saw each row ``visits`` times."""
        n = len(ids)
        return cls(
            ids=ids,
            source=source,
            score=score,
            weight=np.ones(n),
            loss=np.full(n, np.nan) if loss is None else loss,
            gap=np.full(n, np.nan) if gap is None else gap,
            visits=np.full(n, visits, np.int64),
            **optional,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | IntArray) -> Scores:
        """The rows at these positions, in this order; the selector is of them all."""
        names = ("score", "weight", "loss", "gap", "visits", "standard_error", "probe_logit")
        columns: dict[str, Any] = {name: getattr(self, name) for name in names}
        chosen: dict[str, Any] = {
            name: None if values is None else values[np.asarray(rows)] for name, values in columns.items()
        }
        ids, source = StringArray.of(self.ids).take(rows), StringArray.of(self.source).take(rows)
        return replace(self, ids=ids, source=source, **chosen)

    def by_id(self) -> dict[str, float]:
        """Score of each id."""
        return dict(zip(self.ids, self.score.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Rejected:
    """A ranked row that was not kept: rank 1 is the best of all rows."""

    id: str
    rank: int
    score: float
    reason: str


class Contamination(NamedTuple):
    """The estimated share of unsafe rows, its interval, and whether it is more than chance."""

    share: float
    low: float
    high: float
    significant: bool


@dataclass(frozen=True, slots=True)
class Rejections(Sequence[Rejected]):
    """Ranked rows that were not kept, the best first; each is made when it is asked for."""

    ids: StringArray
    scores: FloatArray
    first_rank: int
    reason: str

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, i: int) -> Rejected: ...
    @overload
    def __getitem__(self, i: slice) -> list[Rejected]: ...
    def __getitem__(self, i: int | slice) -> Rejected | list[Rejected]:
        if isinstance(i, slice):
            return [self[place] for place in range(*i.indices(len(self)))]
        place = range(len(self))[i]
        return Rejected(self.ids[place], self.first_rank + place, float(self.scores[place]), self.reason)


@dataclass(frozen=True, slots=True)
class Selection:
    """Ids kept, in input order, and the rows rejected by rank; the lowest score kept; how many rows seem unsafe."""

    kept: Sequence[str]
    rejected: Sequence[Rejected]
    threshold: float
    contamination: Contamination | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """One evaluation prompt of a named set; ``kind`` is ``harmful`` or ``harmless``."""

    id: str
    prompt: str
    set: str
    kind: str


@dataclass(frozen=True, slots=True)
class Response:
    """What one model (``base`` or ``tuned``) answered to one prompt."""

    id: str
    model: str
    set: str
    kind: str
    prompt: str
    response: str
    tokens: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one judge says of one response: ``label`` is the judge's own word, ``flagged`` its yes or no.

    ``score`` is the number of a judge that gives one. Where there is no verdict, ``error`` says why, ``label`` is
    ``unparsed``, ``declined`` or ``failed``, and ``flagged`` and ``score`` mean nothing: such a one is never counted.
    """

    id: str
    model: str
    set: str
    kind: str
    judge: str
    label: str
    flagged: bool
    score: float | None = None
    error: str | None = None
