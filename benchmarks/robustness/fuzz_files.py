"""Files of rows as people export them, which fuzz.py breaks: compressed, by columns, in folders."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

CARD = "README.md"
"""The README of a folder that is a clone of a hub repository."""

ROWS = [{"id": f"row {i}", "prompt": f"say {i}", "response": 'one; "two"'} for i in range(4)]
CARD_TEXT = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.jsonl
---
# Rows
"""


def exported_files(folder: Path) -> dict[str, bytes]:
    """A small intact file of every form, by the end of its name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    columns = {key: [row[key] for row in ROWS] for key in ROWS[0]}
    turns = {"role": ["user", "assistant"], "content": [b"hi", b"ho"]}
    pq.write_table(pa.table({"messages": [turns] * 3}), folder / "turns.parquet")
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(lines.encode())
    text = [f'{row["id"]}\t{row["prompt"]}\t"To be" or {row["prompt"]}' for row in ROWS]
    cells = [";".join(row.values()).replace("; ", " ") for row in ROWS]
    return {
        CARD: CARD_TEXT.encode(),
        ".jsonl.gz": gzip.compress(lines.encode()),
        ".jsonl.zst": sink.getvalue().to_pybytes(),
        "-utf16.jsonl": lines.encode("utf-16"),
        "-columns.json": json.dumps(columns).encode(),
        "-split.json": json.dumps({"columns": list(columns), "data": [list(row.values()) for row in ROWS]}).encode(),
        "-splits.json": json.dumps({"train": ROWS, "test": ROWS[:1]}).encode(),
        "-pretty.jsonl": "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
        "-quotes.tsv": "\n".join(["id\tprompt\tresponse", *text]).encode(),
        "-escaped.csv": b'id,prompt,response\nrow 1,"say \\"a\\", b","\\\\ c"\n',
        "-excel.csv": "\r\n".join(["sep=;", "id;prompt;response", *cells]).encode("utf-8-sig"),
        "-turns.parquet": (folder / "turns.parquet").read_bytes(),
    }


def write_clone(folder: Path, card: bytes) -> Path:
    """A clone of a hub repository with this README; returns its folder."""
    clone = folder / "clone"
    (clone / "data").mkdir(parents=True, exist_ok=True)
    for i, row in enumerate(ROWS):
        (clone / "data" / f"train-{i}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    (clone / CARD).write_bytes(card)
    return clone
