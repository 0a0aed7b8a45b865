"""Conversations taken apart into their answers, and put together again with some answers masked.

An answer is scored as the end of the conversation that leads to it: everything before it is context. So any ranker
scores answers as it scores rows. A masked answer stays in its conversation as context, and is not learned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sealtune.core.errors import UserError
from sealtune.core.string_array import IntArray, StringArray
from sealtune.core.types import Message, Sample
from sealtune.data.encoded import Encoded, TokensAndMask
from sealtune.data.turns import as_list, turns

MARKS: Mapping[str, tuple[str, Any]] = {"messages": ("weight", 0), "conversations": ("train", False)}
"""Column of turns -> how its tools mark an answer that is context only: OpenAI's fine-tuning, and Axolotl."""
MASKED = "masked_turns"
"""The column that names masked answers, from 1, of rows whose format has no mark for them."""


@dataclass(frozen=True, slots=True)
class TurnRows:
    """T answers of N conversations, each a row of its own.

    Attributes:
        encoded: The rows: the conversation up to the end of the answer, which alone is learned. The id is that of the
            conversation if it has one answer, otherwise ``id#number``.
        ids: Ids of the conversations, (N,).
        conversation: Position of the conversation, (T,), ascending.
        number: Number of the answer in its conversation, (T,), from 1; answers that are not learned are not counted.
    """

    encoded: Encoded
    ids: StringArray
    conversation: IntArray
    number: IntArray

    @property
    def conversation_ids(self) -> StringArray:
        """The id of each answer's conversation, (T,)."""
        return self.ids.take(self.conversation)


def split_turns(rows: Encoded) -> TurnRows:
    """The learned answers of conversations as rows. All tokens are held in memory, those of a context once per answer.

    Raises:
        UserError: An id looks like that of an answer of another row.
    """
    parts: list[TokensAndMask] = []
    conversation, number, ids = [], [], []
    for i, row_id in enumerate(rows.ids):
        tokens, mask = rows.row(i)
        found = list(answers(mask))
        for k, span in enumerate(found, 1):
            own = np.zeros(span.stop, np.bool_)
            own[span] = True
            parts.append((tokens[: span.stop], own))
            ids.append(row_id if len(found) == 1 else f"{row_id}#{k}")
            conversation.append(i)
            number.append(k)
    if len(set(ids)) < len(ids):
        twice = next(row_id for row_id in ids if ids.count(row_id) > 1)
        raise UserError(f"select.granularity: {twice} is a row, and an answer of another one; rename the row")
    places = np.array(conversation, np.int64)
    encoded = Encoded.join(ids, StringArray.of(rows.source).take(places), parts)
    return TurnRows(encoded, StringArray.of(rows.ids), places, np.array(number, np.int64))


def answers(mask: npt.NDArray[np.bool_]) -> Iterator[slice]:
    """The spans of the learned answers in a loss mask (T,): its runs, which turns of others lie between."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    for start, stop in edges.reshape(-1, 2).tolist():
        yield slice(start, stop)


def mask_turns(rows: Encoded, masked: Mapping[str, Collection[int]]) -> Encoded:
    """The rows with the mask of these answers, by id and number, removed. Only the mask is copied.

    Raises:
        UserError: A row has no such answer, or none would be left.
    """
    if not masked:
        return rows
    mask = np.array(rows.mask)
    for i in np.flatnonzero(StringArray.of(rows.ids).isin(masked)).tolist():
        row_id = rows.ids[i]
        start = rows.bounds[i if rows.order is None else rows.order[i]]
        spans = list(answers(rows.row(i)[1]))
        numbers = set(masked[row_id])
        if not numbers < set(range(1, len(spans) + 1)):
            raise UserError(
                f"{row_id}: has {len(spans)} answers, of which {sorted(numbers)} cannot be masked; select again"
            )
        for number in numbers:
            span = spans[number - 1]
            mask[start + span.start : start + span.stop] = False
    return replace(rows, mask=mask)


def mask_messages(messages: Sequence[Message], numbers: Collection[int]) -> tuple[Message, ...]:
    """The conversation with these answers as context only; they are counted as in ``TurnRows``."""
    learned = [i for i, turn in enumerate(messages) if turn.is_learned]
    chosen = {learned[number - 1] for number in numbers}
    return tuple(turn._replace(train=False) if i in chosen else turn for i, turn in enumerate(messages))


def marked_row(sample: Sample, numbers: Collection[int]) -> dict[str, Any]:
    """The row as it was read, with these answers marked as context: in their turns, or in a column of their own."""
    for column, (key, value) in MARKS.items():
        items = as_list(sample.row.get(column)) if column in sample.row else None
        if items is None or not all(isinstance(item, Mapping) for item in items):
            continue
        learned = [i for i, item in enumerate(items) for turn in turns([item], "user") if turn.is_learned]
        if len(learned) >= max(numbers):
            chosen = {learned[number - 1] for number in numbers}
            marked = [{**item, key: value} if i in chosen else item for i, item in enumerate(items)]
            return {**sample.row, column: marked}
    return {**sample.row, MASKED: sorted(numbers)}
