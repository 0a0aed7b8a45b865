"""What crosses module borders: rows, scores, selections, answers, verdicts, and the error a user reads."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from signal import SIGTERM
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from sealtune.telling import one_line
from sealtune.texts import Texts

if TYPE_CHECKING:
    from sealtune.encoded import Encoded

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class UserError(Exception):
    """A fault in the input that the user can mend: one line that names the file, the row and the fix. Exit code 2.

    Each argument is a line. What it quotes cannot write another one, nor show a key.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(map(one_line, lines)))


class RunError(Exception):
    """A fault while running (a NaN loss, a full disk): one line, exit code 1; what was finished is kept."""

    code = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class StoppedError(RunError):
    """The run was asked to end and saved what there was to save. Exit code 1 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.code = 143 if signal_number == SIGTERM else 1


def did_you_mean(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """The question that names the nearest of ``names``; empty where none is near (``cutoff`` in [0, 1])."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return f"did you mean {near[0]!r}?" if near else ""


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
        self.ids = Texts.of(ids)
        self.truth = truth

    @classmethod
    def known(cls, labels: Mapping[str, int]) -> Labels:
        """These labels; themselves where they are such already."""
        return labels if isinstance(labels, Labels) else cls(labels, np.array(list(labels.values()), np.int64))

    def of(self, ids: Iterable[str]) -> IntArray:
        """The label of each of these ids (K,), -1 where none is known."""
        places = self.ids.find(ids)
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
    """A ranking: one entry a row, in the order of ``ids``. Higher ``score`` means keep.

    ``weight`` has mean 1 (softmax) or lies in (0, 2) (sigmoid); ``loss`` and ``gap`` are nats per response token (NaN
    where a ranker has none); ``visits`` counts how often the row was met while ranking.

    Not every ranker gives the rest: ``doubt`` (N,), a standard deviation of the score, how far it would move with other
    safe rows or other epochs; ``margin`` (N,), the part of the score that a cross-fitted scorer gives, from which the
    share of unsafe rows is estimated; ``selector``, arrays that score rows never seen. ``faults`` are the ids of rows
    whose loss is not finite: they are ranked last.
    """

    ids: Sequence[str]
    source: Sequence[str]
    score: FloatArray
    weight: FloatArray
    loss: FloatArray
    gap: FloatArray
    visits: IntArray
    doubt: FloatArray | None = None
    margin: FloatArray | None = None
    selector: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    faults: tuple[str, ...] = ()

    @classmethod
    def unweighted(
        cls,
        rows: Encoded,
        score: FloatArray,
        *,
        loss: FloatArray | None = None,
        gap: FloatArray | None = None,
        visits: int = 0,
        **more: Any,
    ) -> Scores:
        """What a ranker gives that weighs no rows while it ranks; each row was met ``visits`` times."""
        n = len(rows)
        return cls(
            ids=rows.ids,
            source=rows.source,
            score=score,
            weight=np.ones(n),
            loss=np.full(n, np.nan) if loss is None else loss,
            gap=np.full(n, np.nan) if gap is None else gap,
            visits=np.full(n, visits, np.int64),
            **more,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | IntArray) -> Scores:
        """The rows at these positions, in this order; the selector is of them all."""
        names = ("score", "weight", "loss", "gap", "visits", "doubt", "margin")
        columns: dict[str, Any] = {name: getattr(self, name) for name in names}
        chosen: dict[str, Any] = {
            name: None if values is None else values[np.asarray(rows)] for name, values in columns.items()
        }
        ids, source = Texts.of(self.ids).take(rows), Texts.of(self.source).take(rows)
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
    """The estimated share of unsafe rows with an interval; ``found``: it is more than chance would have it."""

    share: float
    low: float
    high: float
    found: bool


@dataclass(frozen=True, slots=True)
class Rejections(Sequence[Rejected]):
    """Ranked rows that were not kept, the best first; each is made when it is asked for."""

    ids: Texts
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
