"""Records that the packages exchange: rows, scores, selections, prompts, responses, verdicts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from sealtune.core.errors import UserError
from sealtune.core.string_array import FloatArray, IntArray, StringArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

NO_FIELDS: Mapping[str, Any] = {}

Verb = Literal["keep", "drop", "unsure"]


class Message(NamedTuple):
    """One turn of a conversation.

    Attributes:
        role: ``system``, ``user``, ``assistant`` or ``tool``.
        content: The text; empty if the turn only calls tools.
        fields: What chat templates read beside the content: ``tool_calls``, ``reasoning_content``, ``name``,
            ``tool_call_id``.
        train: Whether an assistant turn is learned; otherwise it is context, and its loss is masked.
    """

    role: str
    content: str
    fields: Mapping[str, Any] = NO_FIELDS
    train: bool = True

    @property
    def is_learned(self) -> bool:
        """Whether it is an answer that contributes to the loss."""
        return self.role == "assistant" and self.train


@dataclass(frozen=True, slots=True)
class Sample:
    """A usable row: its id, its conversation, and the row exactly as it was read.

    ``position`` is its index among all rows read, dropped rows included, from 0; ``tools`` are the JSON schemas of the
    tools that the row declares.
    """

    id: str
    messages: tuple[Message, ...]
    source: str
    row: Mapping[str, Any] = field(repr=False)
    position: int = 0
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def prompt(self) -> str:
        """Everything before the last assistant turn, for display."""
        return "\n".join(m.content for m in self.messages[: self._last])

    @property
    def response(self) -> str:
        """The last assistant turn, for display."""
        return self.messages[self._last].content

    @property
    def _last(self) -> int:
        turns = (i for i, message in enumerate(self.messages) if message.role == "assistant")
        return max(turns, default=len(self.messages) - 1)


@dataclass(frozen=True, slots=True)
class Drop:
    """A row that is not used: ``reason`` is a short slug, ``detail`` a sentence."""

    id: str
    source: str
    reason: str
    detail: str
    row: Mapping[str, Any] = field(repr=False)
    position: int = 0


class Labels(Mapping[str, int]):
    """Ground truth by id, 1 = unsafe; ``truth`` is int64 (N,), in the order of ``ids``."""

    def __init__(self, ids: Iterable[str], truth: IntArray) -> None:
        self.ids = StringArray.of(ids)
        self.truth = truth

    @classmethod
    def from_mapping(cls, labels: Mapping[str, int]) -> Labels:
        """The labels of a mapping; the same object if it is one already."""
        return labels if isinstance(labels, Labels) else cls(labels, np.array(list(labels.values()), np.int64))

    def lookup(self, ids: Iterable[str]) -> IntArray:
        """The label of each of these ids, (K,); -1 if it has none."""
        return np.append(self.truth, -1)[self.ids.index_in(ids)]

    def __getitem__(self, row_id: str) -> int:
        label = int(self.lookup([row_id])[0])
        if label < 0:
            raise KeyError(row_id)
        return label

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


class Neighbours(NamedTuple):
    """Ids of the candidates, and of the safe rows, that are most alike a row to the ranker; the nearest first."""

    id: str
    rows: tuple[str, ...]
    safe: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """A ranking: one entry per row, in the order of ``ids``. Higher ``score`` means keep.

    Attributes:
        ids: N ids.
        source: (N,), the name of the dataset of each row.
        score: (N,), finite; rows in ``non_finite`` are ranked last.
        weight: (N,), with mean 1 (softmax) or in (0, 2) (sigmoid); 1 if the ranker has no weights.
        loss: (N,), nats per response token; NaN if the ranker computes no loss.
        gap: (N,), nats per response token, loss of theta minus loss of theta-hat; NaN if the ranker has no theta-hat.
        visits: (N,), how often ranking visited each row.
        standard_error: (N,), how much the score varies with other safe rows or other epochs; None if not estimated.
        probe_logit: (N,), the cross-fitted logit of a probe trained without the safe set, from which the share of
            unsafe rows is estimated; None if the ranker has no such probe.
        parts: (N,) each, summands of the score by name; empty if the ranker does not add it up.
        places: (N, 2), where each row lies on a map on which rows that are alike to the ranker are neighbours; None if
            it draws none.
        neighbours: the nearest rows by id; empty if the ranker finds none, or there are too many rows.
        selector: arrays that score rows which were not ranked.
        non_finite: ids of the rows whose loss was NaN or infinite.
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
    parts: Mapping[str, FloatArray] = field(default_factory=dict)
    places: FloatArray | None = None
    neighbours: Mapping[str, Neighbours] = field(default_factory=dict)
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
        """The scores of a ranker without weights that visited each row ``visits`` times."""
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
        """The rows at these positions, in this order; the selector stays that of all rows."""
        names = ("score", "weight", "loss", "gap", "visits", "standard_error", "probe_logit", "places")
        columns: dict[str, Any] = {name: getattr(self, name) for name in names}
        chosen: dict[str, Any] = {
            name: None if values is None else values[np.asarray(rows)] for name, values in columns.items()
        }
        chosen["parts"] = {name: values[np.asarray(rows)] for name, values in self.parts.items()}
        ids, source = StringArray.of(self.ids).take(rows), StringArray.of(self.source).take(rows)
        return replace(self, ids=ids, source=source, **chosen)

    def by_id(self) -> dict[str, float]:
        """The score of each id."""
        return dict(zip(self.ids, self.score.tolist(), strict=True))

    def to_pandas(self) -> DataFrame:
        """A data frame with one row per id, in order: source, score, and what else the ranker gives."""
        import pandas as pd

        names = ("source", "score", "weight", "loss", "gap", "visits", "standard_error", "probe_logit")
        columns = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        columns |= {"source": list(self.source)} | {f"part_{name}": values for name, values in self.parts.items()}
        return pd.DataFrame(columns, index=pd.Index(list(self.ids), name="id"))

    def plot(self, threshold: float | None = None, ax: Axes | None = None) -> Axes:
        """Draw how many rows have which score, and the threshold, for example ``Selection.threshold``.

        Raises:
            UserError: matplotlib is not installed.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            raise UserError("Scores.plot: matplotlib is not installed; pip install 'sealtune[plot]'") from None
        drawn = plt.subplots()[1] if ax is None else ax
        drawn.hist(self.score[np.isfinite(self.score)], bins="auto")
        drawn.set(xlabel="score (higher = keep)", ylabel="rows")
        if threshold is not None:
            drawn.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.3g}")
            drawn.legend()
        return drawn

    def _repr_html_(self) -> str:
        """The lowest scores as a table, for notebooks; ids and sources are escaped."""
        lowest = self.take(np.argsort(self.score, kind="stable")[:10]).to_pandas()
        return f"<p>{len(self):,} rows; the lowest scores:</p>{lowest.to_html(float_format='{:.3f}'.format)}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person decided about a row; ``unsure`` decides nothing. ``at`` is a time in ISO 8601."""

    id: str
    decision: Verb
    by: str
    at: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A ranked row that was not kept; rank 1 is the best of all rows."""

    id: str
    rank: int
    score: float
    reason: str


class Contamination(NamedTuple):
    """The estimated share of unsafe rows, its confidence interval, and whether it differs from 0 significantly."""

    share: float
    low: float
    high: float
    significant: bool


@dataclass(frozen=True, slots=True)
class Rejections(Sequence[Rejected]):
    """Ranked rows that were not kept, the best first; each is created on access.

    Attributes:
        ids: (K,).
        scores: (K,).
        ranks: (K,), from 1.
        reason: Why they were not kept.
        decided: Ids of those that a person dropped; their reason is ``decision``.
    """

    ids: StringArray
    scores: FloatArray
    ranks: IntArray
    reason: str
    decided: Collection[str] = frozenset()

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, i: int) -> Rejected: ...
    @overload
    def __getitem__(self, i: slice) -> list[Rejected]: ...
    def __getitem__(self, i: int | slice) -> Rejected | list[Rejected]:
        if isinstance(i, slice):
            return [self[index] for index in range(*i.indices(len(self)))]
        row_id = self.ids[i]
        reason = "decision" if row_id in self.decided else self.reason
        return Rejected(row_id, int(self.ranks[i]), float(self.scores[i]), reason)


@dataclass(frozen=True, slots=True)
class Selection:
    """What is kept and what is not.

    Attributes:
        kept: Ids, in input order.
        rejected: The other rows, by rank.
        threshold: The lowest score that kept a row; rows that a person kept may be below.
        contamination: The estimated share of unsafe rows.
    """

    kept: Sequence[str]
    rejected: Rejections
    threshold: float
    contamination: Contamination | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """An evaluation prompt of the set ``set``; ``kind`` is ``harmful`` or ``harmless``."""

    id: str
    prompt: str
    set: str
    kind: str


@dataclass(frozen=True, slots=True)
class Response:
    """The answer of a model (``base`` or ``tuned``) to a prompt; ``finished`` if the model ended its turn."""

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
    """A judge's verdict on a response: ``label`` in the judge's own words, ``flagged`` as yes or no.

    ``score`` is None for judges without scores. If there is no verdict, ``error`` gives the reason, ``label`` is
    ``unparsed``, ``declined`` or ``failed``, and ``flagged`` and ``score`` are meaningless and never counted.
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
