"""The rows that a run trains on, as conversations: those that it kept, and the rows of ``mix_datasets``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sealtune.core.string_array import FloatArray, StringArray
from sealtune.core.types import Message
from sealtune.data.encode import learned_part
from sealtune.data.row_store import Samples
from sealtune.data.turn_rows import mask_messages
from sealtune.pipeline import turns
from sealtune.pipeline.stages.tune import row_weights

if TYPE_CHECKING:
    from sealtune.pipeline.run import Run


class KeptRow(NamedTuple):
    """One row.

    Attributes:
        id: Its id.
        source: The name of its dataset.
        messages: Its conversation, up to the last answer that is learned.
        tools: JSON schemas of the tools that it declares.
        score: Its score; None for a row of ``mix_datasets``.
        weight: Its weight in the loss, 1 on average; None if the rows are not weighted.
    """

    id: str
    source: str
    messages: Sequence[Message]
    tools: tuple[Mapping[str, Any], ...] = ()
    score: float | None = None
    weight: float | None = None

    @property
    def has_masked_turns(self) -> bool:
        """Whether an answer is context only."""
        return any(turn.role == "assistant" and not turn.train for turn in self.messages)


class KeptRows:
    """All rows that a run trains on, in the order of its tuning; each is created when it is iterated over.

    Args:
        run: The run.
        weighted: Whether the rows have the weights of the ranking.

    Raises:
        UserError: The run has not selected, its rows were changed since, or its ranker gives no weights.
    """

    def __init__(self, run: Run, *, weighted: bool) -> None:
        run.folder.outputs_of("select")
        run.require_same_rows("export")
        rows = run.inputs.load_rows().samples
        kept = rows.take(np.flatnonzero(rows.ids.isin(run.folder.kept_ids())))
        mixed = _mixed(run)
        ids = StringArray.of(kept.ids) + mixed.ids
        scores = run.folder.read_scores()
        found = scores.score[StringArray.of(scores.ids).index_in(kept.ids)]
        self.parts = (kept, mixed)
        self.masked = turns.read_masked(run.folder)
        self.scores: FloatArray = np.append(found, np.full(len(mixed), np.nan))
        self.weights = row_weights(run, ids) if weighted else None

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[KeptRow]:
        samples = (sample for part in self.parts for sample in part)
        for i, sample in enumerate(samples):
            messages = mask_messages(sample.messages, self.masked.get(sample.id, ()) if i < len(self.parts[0]) else ())
            score = None if np.isnan(self.scores[i]) else float(self.scores[i])
            weight = None if self.weights is None else float(self.weights[i])
            yield KeptRow(sample.id, sample.source, learned_part(messages), sample.tools, score, weight)


def _mixed(run: Run) -> Samples:
    """The usable rows of ``mix_datasets``."""
    rows = run.inputs.load_mix_rows()
    if not run.config.select.mix_datasets:
        return rows.samples
    usable = run.inputs.tokenize(rows).encoded.ids
    return rows.samples.take(np.flatnonzero(rows.samples.ids.isin(usable)))
