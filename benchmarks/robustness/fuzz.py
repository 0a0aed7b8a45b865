"""Bad input by the hundred thousand: every file type that rows are read from, the config loader, files of prompts,
every file of a run folder (fuzz_folder.py), and the answers of judges.

Whole files of every type, configs and answers are broken at random: bytes flipped, cut, doubled or replaced by what
breaks parsers (NUL, half surrogates, bidirectional marks, huge numbers, deep nesting, names of special tokens). Each
must give what it holds, or one UserError of a few lines that names the file, within seconds. Rows that are read are
tokenised: what a row says must not end a turn. Anything else is a crash, and is written down with the input that
caused it.

    python benchmarks/fuzz.py --inputs 100000 --output benchmarks/results/fuzz.json
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
    parser.add_argument("--model", default="smollm2-135m-instruct", help="whose tokenizer the rows go through")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = fuzz(args, Path(folder))
    print(json.dumps({key: value for key, value in report.items() if key != "crashes"}, indent=2))
    for crash in report["crashes"]:
        print(crash["trace"], file=sys.stderr)
    if args.output:
        args.output.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(1 if report["crashes"] else 0)


def fuzz(args: argparse.Namespace, folder: Path) -> dict:
    from sealtune.core.config_io import build_config
    from sealtune.models.load import load_tokenizer
    from sealtune.pipeline.environment import machine, versions

    chance = random.Random(args.seed)
    tokenizer = load_tokenizer(build_config({"model_name_or_path": args.model}))
    sealtune_folder = Folder(folder / "run")
    wholes = whole_files(folder) | sealtune_folder.wholes
    outcomes: Counter[str] = Counter()
    crashes: list[dict] = []
    slowest, started = 0.0, time.perf_counter()
    for number in range(args.inputs):
        suffix = chance.choice(list(wholes))
        content = broken(chance, wholes[suffix])
        began = time.perf_counter()
        try:
            with within(SECONDS):
                if suffix in sealtune_folder.wholes:
                    outcome = sealtune_folder.read(suffix, content)
                else:
                    path = folder / f"input{suffix}"
                    path.write_bytes(content)
                    outcome = read_config(path) if suffix == ".yaml" else read_rows(path, tokenizer)
        except (Exception, TooLateError):  # whatever it is, it is what we look for
            outcome = "crash"
            crashes.append(
                {"number": number, "suffix": suffix, "input": repr(content), "trace": traceback.format_exc()}
            )
        slowest = max(slowest, time.perf_counter() - began)
        outcomes[f"{suffix} {outcome}"] += 1
    return {
        "command": " ".join(["python", *sys.argv]),
        "inputs": args.inputs,
        "outcomes": dict(sorted(outcomes.items())),
        "seconds": time.perf_counter() - started,
        "slowest_seconds": slowest,
        "crashes": crashes,
        "machine": machine(),
        "versions": versions(),
    }


class Folder:
    """A run folder of which one file at a time is broken, and the judges, each with an answer that is broken."""

    def __init__(self, root: Path) -> None:
        import fuzz_folder

        self.made = fuzz_folder
        self.root = root
        self.paths = fuzz_folder.make(root)
        self.whole = {name: path.read_bytes() for name, path in self.paths.items()}
        self.judges = {f"judge {name}": answer.encode() for name, answer in fuzz_folder.ANSWERS.items()}
        self.wholes = self.whole | self.judges

    def read(self, name: str, content: bytes) -> str:
        if name in self.judges:
            return self.made.judge(name.removeprefix("judge "), content.decode("utf-8", "replace"))
        self.paths[name].write_bytes(content)
        try:
            return self.made.read(name, self.root)
        finally:
            self.paths[name].write_bytes(self.whole[name])
            if name.startswith("tokens"):  # the cache may have been made anew
                for each in self.whole:
                    if each.startswith("tokens"):
                        self.paths[each].write_bytes(self.whole[each])


def read_rows(path: Path, tokenizer) -> str:
    """Read and tokenise; ``rows`` or ``refused``. Raises AssertionError on a message or a row that is not right."""
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
    from sealtune.core.config_io import build_config, read_yaml
    from sealtune.core.errors import UserError

    try:
        build_config(read_yaml(path), str(path))
    except UserError as error:
        require_clear(error, path)
        return "refused"
    return "config"


def require_clear(error: Exception, path: Path) -> None:
    """A few short lines, the first of which names the file."""
    lines = str(error).splitlines() or [""]
    assert path.name in lines[0], f"the message does not name the file: {lines[0][:200]!r}"
    assert len(str(error)) < 20_000, "the message is a book"


def whole_files(folder: Path) -> dict[str, bytes]:
    """A small whole file of every type."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"id": f"row {i}", "prompt": f"say {i}", "response": "one, two\nthree", "unsafe": i % 2} for i in range(6)]
    talk = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]} for _ in range(3)]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, folder / "whole.parquet")
    with pa.OSFile(str(folder / "whole.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    fields = "\n".join(f'{row["id"]},{row["prompt"]},"{row["response"]}",{row["unsafe"]}' for row in rows)
    return {
        ".jsonl": "".join(json.dumps(row) + "\n" for row in [*rows[:3]]).encode(),
        ".ndjson": "".join(json.dumps(row) + "\n" for row in talk).encode(),
        ".json": json.dumps(talk).encode(),
        ".csv": f"id,prompt,response,unsafe\n{fields}\n".encode(),
        ".tsv": f"id,prompt,response,unsafe\n{fields}\n".replace(",", "\t").encode(),
        ".parquet": (folder / "whole.parquet").read_bytes(),
        ".arrow": (folder / "whole.arrow").read_bytes(),
        ".yaml": Path("configs/quickstart.yaml").read_bytes(),
    }


def broken(chance: random.Random, content: bytes) -> bytes:
    """The content with one to four things done to it."""
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


class TooLateError(BaseException):
    """A hang. No Exception, so that no reader takes it for a fault of the file."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise TooLateError in a block that takes longer."""

    def late(number, frame):
        raise TooLateError(f"no answer within {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


if __name__ == "__main__":
    main()
