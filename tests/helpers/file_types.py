"""The same two rows in every supported file type, and how files are compressed."""

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = [{"prompt": "2 + 2?", "response": "4"}, {"prompt": "a\u2028b\x85c", "response": "d\ne"}]


def write_jsonl(path):
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n\n".join(json.dumps(row, ensure_ascii=False).encode() for row in ROWS))


def write_json(path):
    path.write_text(json.dumps(ROWS))


def write_csv(path):
    path.write_bytes('prompt,response\r\n2 + 2?,4\r\n"a\u2028b\x85c","d\ne"\r\n'.encode())


def write_tsv(path):
    path.write_bytes('prompt\tresponse\n2 + 2?\t4\n"a\u2028b\x85c"\t"d\ne"\n'.encode())


def write_parquet(path):
    pq.write_table(pa.Table.from_pylist(ROWS), path)


def write_arrow(path):
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(path, table.schema) as sink:
        sink.write_table(table)


WRITERS = {
    "jsonl": write_jsonl,
    "ndjson": write_jsonl,
    "json": write_json,
    "csv": write_csv,
    "tsv": write_tsv,
    "parquet": write_parquet,
    "arrow": write_arrow,
}


def _compress_by_arrow(name):
    def compress(content):
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, name) as stream:
            stream.write(content)
        return sink.getvalue().to_pybytes()

    return compress


COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": _compress_by_arrow("zstd"),
    ".lz4": _compress_by_arrow("lz4"),
}
