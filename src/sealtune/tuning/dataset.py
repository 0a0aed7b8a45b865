"""The tokenized rows as the trainer reads them: a dataset and a collator."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sealtune.core.config import TuneConfig
from sealtune.core.string_array import FloatArray
from sealtune.data.encoded import Encoded

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

BLOCK_ROWS = 2**14
"""Rows converted at once."""


def to_dataset(rows: Encoded) -> Dataset:
    """A dataset with the columns ``input_ids``, ``labels`` (-100 outside the response) and ``row`` (the position)."""
    import pyarrow as pa
    from datasets import Dataset
    from datasets.table import InMemoryTable

    def record_batch(start: int) -> pa.RecordBatch:
        block = rows.block(start, min(start + BLOCK_ROWS, len(rows)))
        labels = np.where(block.mask, block.tokens, np.int32(-100))
        lists = [pa.ListArray.from_arrays(block.bounds.astype(np.int32), values) for values in (block.tokens, labels)]
        return pa.record_batch([*lists, np.arange(start, start + len(block))], names=["input_ids", "labels", "row"])

    batches = [record_batch(start) for start in range(0, len(rows), BLOCK_ROWS)]
    return Dataset(InMemoryTable(pa.Table.from_batches(batches)))


class RecordingCollator:
    """TRL's collator, with the weights of the rows if there are any.

    It records the rows since the last log line, which a non-finite loss comes from.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: Encoded,
        settings: TuneConfig,
        weights: FloatArray | None = None,
    ) -> None:
        from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

        # Any token will do as padding: the attention mask and the labels exclude it.
        pad = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.collate = DataCollatorForLanguageModeling(pad_token_id=pad)
        self.rows = rows
        self.weights = weights
        # One batch more than a log line covers, because the loader prefetches one.
        self.recent: deque[list[str]] = deque(maxlen=settings.logging_steps * settings.gradient_accumulation_steps + 1)

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch of these rows of the dataset."""
        self.recent.append([self.rows.ids[example["row"]] for example in examples])
        batch: dict[str, Any] = self.collate(
            [{name: example[name] for name in ("input_ids", "labels")} for example in examples]
        )
        if self.weights is not None:
            positions = [example["row"] for example in examples]
            batch["row_weights"] = torch.from_numpy(self.weights[positions].astype(np.float32))
        return batch

    def recent_ids(self) -> list[str]:
        """Ids of the recorded rows."""
        return [row_id for batch in self.recent for row_id in batch]
