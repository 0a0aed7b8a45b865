"""A dataset folder of the Hugging Face hub: one Parquet file and a dataset card. It carries everything."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from sealtune.core.files import Folder
from sealtune.core.types import Message
from sealtune.data.reasons import plural
from sealtune.pipeline.export_job import Job, Target, Written, as_dict, calls_with_text_arguments, tools_as_text
from sealtune.pipeline.kept_rows import KeptRow
from sealtune.report.markdown import results_section
from sealtune.tuning.model_card import ranked_by

if TYPE_CHECKING:
    import pyarrow as pa

FILE = "data/train-00000-of-00001.parquet"
BATCH_ROWS = 4096
TEXT_FIELDS = ("reasoning_content", "name", "tool_call_id")
"""Fields of a turn beside its content, as far as any row has them."""


CARD = """---
tags:
- sealtune
- data-selection
- safety
task_categories:
- text-generation
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
---

# {rows:,} fine-tuning rows kept by sealtune

{ranked:,} candidate rows were ranked {ranked_by}; {kept:,} were kept{added}.

| column | |
|---|---|
| `id`, `source` | the id of the row, and the name of its data set |
| `messages` | the conversation; arguments of tool calls are JSON text; an answer with `train` false is context only |
| `tools` | JSON schemas of the tools that the row declares, as JSON text |
| `score` | of the ranking, higher = keep; none for rows that were added |{weight}

Columns of the original rows that are not part of the conversation are not contained.

Selection lowers the share of unsafe rows; it does not prove that none is left.
{notes}{results}"""
WEIGHT = "\n| `weight` | of the row in the loss, 1 on average |"


def write(job: Job, folder: Folder) -> Written:
    """Write the Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = schema(job)
    with folder.atomic_file(FILE) as scratch, pq.ParquetWriter(scratch, kind) as writer:
        records = map(_record, job.rows)
        while batch := list(islice(records, BATCH_ROWS)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=kind))
    return Written(len(job.rows), "")


def schema(job: Job) -> pa.Schema:
    """The columns; a turn has the fields that any turn of the rows has."""
    import pyarrow as pa

    used = {name for row in job.rows for turn in row.messages for name in turn.fields}
    text = pa.string()
    call = pa.struct({"id": text, "type": text, "function": pa.struct({"name": text, "arguments": text})})
    turn = {"role": text, "content": text, "train": pa.bool_()}
    turn |= {name: text for name in TEXT_FIELDS if name in used}
    turn |= {"tool_calls": pa.list_(call)} if "tool_calls" in used else {}
    weight = {} if job.rows.weights is None else {"weight": pa.float64()}
    fields = {"id": text, "source": text, "messages": pa.list_(pa.struct(turn)), "tools": text, "score": pa.float64()}
    return pa.schema(fields | weight)


def _record(row: KeptRow) -> dict[str, Any]:
    turns = [_turn(message) for message in row.messages]
    return row._asdict() | {"messages": turns, "tools": tools_as_text(row.tools)}


def _turn(message: Message) -> dict[str, Any]:
    turn = as_dict(message) | {"train": message.train if message.role == "assistant" else None}
    if calls := message.fields.get("tool_calls"):
        turn["tool_calls"] = calls_with_text_arguments(calls)
    return turn


def card(job: Job, notes: Sequence[str]) -> str:
    """The dataset card."""
    added = job.facts["added"]
    return CARD.format(
        rows=len(job.rows),
        ranked=job.facts["ranked"],
        kept=job.facts["kept"],
        added=f", and {plural(added, 'row')} of other data sets added" if added else "",
        ranked_by=ranked_by(job.config),
        weight="" if job.rows.weights is None else WEIGHT,
        notes="".join(f"\n- {note}" for note in notes) + ("\n" if notes else ""),
        results=results_section(job.results) if job.results else "",
    )


TARGET = Target("the Hugging Face hub", write, has_weights=True, trains=False, card=card)
