"""Broken input by the hundred thousand: every file type that rows are loaded from, configs, files of prompts, every
file of a run folder, and the answers of judges (fuzz_folder.py).

Intact files, configs and answers are broken at random: bytes are reversed, cut, doubled or replaced by what breaks
parsers (NUL, lone surrogates, bidirectional marks, huge numbers, deep nesting, names of special tokens). Each must give
its content, or one UserError of a few lines that names the file, within seconds. Rows that load are tokenized: text in
a row must not end a turn. Anything else is a crash, and is reported with the input that caused it.

    python benchmarks/robustness/fuzz.py --inputs 100000 --output benchmarks/results/fuzz.json
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks.lib.reports import provenance, write_report
from benchmarks.robustness import fuzz_files, fuzz_folder

CONFIG = Path(__file__).parents[2] / "configs/quickstart.yaml"
SECONDS = 10
NASTY = [
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b'"\\ud800"',
    "\u202e\u2066\u200b".encode(),
    b"\x1b[2J\x1b]0;owned\x07",
    b"1e999999",
    b"-" + b"9" * 5000,
    b"NaN",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"<|im_end|>\n<|im_start|>system\n",
    b"<script>alert(1)</script>",
    b'","',
    b"\r\n\r",
    "\u2028\u2029\x85".encode(),
    b"!!python/object/apply:os.system ['true']",
    b"&a [*a, *a]",
    b"{{ 7 * 7 }}",
    b"..//..//etc/passwd",
    b"\\u0000",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="its tokenizer is used")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = fuzz(args, Path(folder)) | provenance(args)
    print(json.dumps({key: value for key, value in report.items() if key != "crashes"}, indent=2))
    for crash in report["crashes"]:
        print(crash["trace"], file=sys.stderr)
    write_report(report, args.output)
    sys.exit(1 if report["crashes"] else 0)


def fuzz(args: argparse.Namespace, folder: Path) -> dict:
    """Counts of outcomes, and the crashes."""
    from sealtune.core.config_io import build_config
    from sealtune.models.load import load_tokenizer

    chance = random.Random(args.seed)
    targets = Targets(folder, load_tokenizer(build_config({"model_name_or_path": args.model})))
    outcomes: Counter[str] = Counter()
    crashes: list[dict] = []
    slowest, started = 0.0, time.perf_counter()
    for number in range(args.inputs):
        name = chance.choice(list(targets.intact))
        content = break_content(chance, targets.intact[name])
        began = time.perf_counter()
        try:
            with time_limit(SECONDS):
                outcome = targets.read(name, content)
        except (Exception, HangError):  # any exception is a finding
            outcome = "crash"
            trace = traceback.format_exc()
            crashes.append({"number": number, "target": name, "input": repr(content), "trace": trace})
        slowest = max(slowest, time.perf_counter() - began)
        outcomes[f"{name} {outcome}"] += 1
    return {
        "inputs": args.inputs,
        "outcomes": dict(sorted(outcomes.items())),
        "seconds": time.perf_counter() - started,
        "slowest_seconds": slowest,
        "crashes": crashes,
    }


class Targets:
    """Everything that is broken: data files and a config by suffix, files of a run folder, answers of judges."""

    def __init__(self, folder: Path, tokenizer) -> None:
        self.folder, self.tokenizer = folder, tokenizer
        self.run = folder / "run"
        self.paths = fuzz_folder.make(self.run)
        self.run_files = {name: path.read_bytes() for name, path in self.paths.items()}
        judges = {f"judge {name}": answer.encode() for name, answer in fuzz_folder.ANSWERS.items()}
        self.intact = intact_files(folder) | fuzz_files.exported_files(folder) | self.run_files | judges

    def read(self, name: str, content: bytes) -> str:
        """Read a target with this content, as sealtune does; the outcome in one word."""
        if name.startswith("judge "):
            return fuzz_folder.judge(name.removeprefix("judge "), content.decode("utf-8", "replace"))
        if name in self.run_files:
            return self._read_run_file(name, content)
        path = self.folder / f"input{name}"
        if name == fuzz_files.CARD:
            path = fuzz_files.write_clone(self.folder, content)
        else:
            path.write_bytes(content)
        return read_config(path) if name == ".yaml" else read_rows(path, self.tokenizer)

    def _read_run_file(self, name: str, content: bytes) -> str:
        self.paths[name].write_bytes(content)
        try:
            return fuzz_folder.read(name, self.run)
        finally:
            self.paths[name].write_bytes(self.run_files[name])
            if name.startswith("tokens"):  # the cache may have been rebuilt
                for other in self.run_files:
                    if other.startswith("tokens"):
                        self.paths[other].write_bytes(self.run_files[other])


def read_rows(path: Path, tokenizer) -> str:
    """Load and tokenize; ``rows`` or ``refused``. Raises AssertionError if a message or a row is wrong."""
    from sealtune.core.config import DatasetConfig
    from sealtune.core.errors import UserError
    from sealtune.data.encode import encode
    from sealtune.data.load import load

    try:
        rows = load([DatasetConfig(path=str(path))])
    except UserError as error:
        require_clear(error, path)
        return "refused"
    ids = [sample.id for sample in rows.samples] + [drop.id for drop in rows.drops]
    assert len(set(ids)) == len(ids), "two rows share an id"
    encoded, drops = encode(rows.samples, tokenizer, 256)
    assert len(encoded) + len(drops) == len(rows.samples), "a row was lost"
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    turns = {sample.id: len(sample.messages) + 1 for sample in rows.samples}  # and the template's own system turn
    for i, row_id in enumerate(encoded.ids):
        tokens, _ = encoded.row(i)
        assert (tokens == end).sum() <= turns[row_id], f"{row_id}: its text ends a turn"
    return "rows"


def read_config(path: Path) -> str:
    """Read a config; ``config`` or ``refused``."""
    from sealtune.core.config_io import build_config, read_yaml
    from sealtune.core.errors import UserError

    try:
        build_config(read_yaml(path), str(path))
    except UserError as error:
        require_clear(error, path)
        return "refused"
    return "config"


def require_clear(error: Exception, path: Path) -> None:
    """Raise AssertionError unless the message is short and its first line names the file."""
    lines = str(error).splitlines() or [""]
    assert path.name in lines[0], f"the message does not name the file: {lines[0][:200]!r}"
    assert len(str(error)) < fuzz_folder.LONGEST_MESSAGE, "the message is too long"


def intact_files(folder: Path) -> dict[str, bytes]:
    """A small intact file of every type, by suffix."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"id": f"row {i}", "prompt": f"say {i}", "response": "one, two\nthree", "unsafe": i % 2} for i in range(6)]
    talk = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]} for _ in range(3)]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, folder / "intact.parquet")
    with pa.OSFile(str(folder / "intact.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    fields = "\n".join(f'{row["id"]},{row["prompt"]},"{row["response"]}",{row["unsafe"]}' for row in rows)
    return {
        ".jsonl": "".join(json.dumps(row) + "\n" for row in [*rows[:3]]).encode(),
        ".ndjson": "".join(json.dumps(row) + "\n" for row in talk).encode(),
        ".json": json.dumps(talk).encode(),
        ".csv": f"id,prompt,response,unsafe\n{fields}\n".encode(),
        ".tsv": f"id,prompt,response,unsafe\n{fields}\n".replace(",", "\t").encode(),
        ".parquet": (folder / "intact.parquet").read_bytes(),
        ".arrow": (folder / "intact.arrow").read_bytes(),
        ".yaml": CONFIG.read_bytes(),
    }


def break_content(chance: random.Random, content: bytes) -> bytes:
    """The content after one to four random changes."""
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        at = chance.randrange(len(content) + 1)
        stop = min(len(content), at + chance.choice([1, 2, 8, 64, 512]))
        match chance.randrange(7):
            case 0:
                content = content[:at] + chance.choice(NASTY) + content[at:]
            case 1:
                content = content[:at] + chance.choice(NASTY) + content[stop:]
            case 2:
                content = content[:at] + chance.randbytes(stop - at) + content[stop:]
            case 3:
                content = content[:at] + content[stop:]
            case 4:
                content = content[:stop] + content[at:]
            case 5:
                content = content[:at]
            case _:
                content = content[:at] + content[at:stop][::-1] + content[stop:]
    return content


class HangError(BaseException):
    """Reading took too long. Not an Exception, so that no reader mistakes it for an error in the file."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise HangError if the block takes longer."""

    def expire(number, frame):
        raise HangError(f"no result within {seconds} s")

    signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


if __name__ == "__main__":
    main()
