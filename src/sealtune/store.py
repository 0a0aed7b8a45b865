"""Run folders are read and written here (and in checkpoints, ledger). A file appears whole or not at all; no pickle."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sealtune import intact
from sealtune.intact import Record
from sealtune.lines import json_line, without_nan
from sealtune.lines import plain as plain
from sealtune.records import IntArray, Scores, UserError
from sealtune.telling import can_be_written
from sealtune.texts import Texts

STAGE_ORDER = ("rank", "select", "tune", "evaluate", "report")
ROW_GROUP = 2**20


class RunFolder:
    """The folder of a run: a folder a stage, and the manifest that tells what is in them.

    ``keeps`` is false in a process that only helps the first one: what it writes is thrown away.
    """

    def __init__(self, root: str | Path, *, keeps: bool = True) -> None:
        self.root = Path(root)
        self.keeps = keeps

    def path(self, name: str) -> Path:
        """Where a file of the run lies. Raises UserError where the name leads out of the folder."""
        return intact.inside(self.root, name)

    def prepare(self) -> None:
        """Make the folder, and sweep what a killed run left half written. Raises UserError where it cannot."""
        if not self.keeps:
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root, prefix=".probe."):
                pass
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):  # the right place, but no room in it
                raise
            raise UserError(f"output_dir: {self.root} cannot be written to ({error.strerror}); name another") from None
        for part in (*self.root.glob(".*.part"), *self.root.glob("*/.*.part")):
            shutil.rmtree(part) if part.is_dir() and not part.is_symlink() else part.unlink()

    # -- whole files -------------------------------------------------------------------------------------------------

    def write_text(self, name: str, text: str) -> None:
        """Write one text file."""
        with self.whole_file(name) as scratch:
            scratch.write_text(text, encoding="utf-8")

    def write_json(self, name: str, content: Any) -> None:
        """Write one JSON file, readable by people."""
        text = json.dumps(without_nan(content), indent=2, ensure_ascii=False, default=plain)
        if not can_be_written(text):  # half of a surrogate pair stays the escape that it was
            text = json.dumps(without_nan(content), indent=2, default=plain)
        self.write_text(name, f"{text}\n")

    def write_texts(self, name: str, texts: Iterable[str]) -> None:
        """Write a JSON list of texts, one a line."""
        with self.whole_file(name) as scratch, scratch.open("w", encoding="utf-8") as file:
            file.write("[")
            for i, text in enumerate(texts):
                file.write(f"{',' if i else ''}\n  {json.dumps(text, ensure_ascii=False)}")
            file.write("\n]\n")

    def write_jsonl(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows, one JSON object a line. Values that JSON lacks (dates of Parquet) become text."""
        with self.whole_file(name) as scratch, scratch.open("wb") as file:
            file.writelines(json_line(row) for row in rows)

    def read_json(self, name: str) -> Any:
        """Content of a JSON file. Raises UserError where it is missing or broken."""
        path = self.path(name)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; run the stage that makes it first") from None
        return intact.parse_json(content, str(path))

    def read_jsonl(self, name: str) -> list[dict[str, Any]]:
        """Rows of a JSONL file; none where the file is missing. Raises UserError that names a broken line."""
        return list(self.stream_jsonl(name))

    def stream_jsonl(self, name: str) -> Iterator[dict[str, Any]]:
        """The same one by one: there may be more of them than memory holds."""
        path = self.path(name)
        if not path.exists():
            return
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                row = intact.parse_json(line, f"{path}, line {number}")
                if not isinstance(row, dict):
                    raise UserError(f"{path}, line {number}: not an object; run the stage again")
                yield row

    def read_records(self, name: str, kind: type[Record]) -> list[Record]:
        """Rows of a JSONL file as records of one kind. Raises UserError where they are not."""
        return intact.records(kind, self.read_jsonl(name), self.path(name))

    def kept_ids(self) -> Texts:
        """Ids of the rows that selection kept. Raises UserError where there is no such list."""
        return intact.ids(self.read_json("select/kept_ids.json"), self.path("select/kept_ids.json"))

    @contextlib.contextmanager
    def whole_file(self, name: str) -> Iterator[Path]:
        """A scratch path beside the target; it takes the target's name when the block ends well."""
        if not self.keeps:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder, Path(name).name)
            return
        target = self.path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with _faults_of_the_disk(scratch, target):
                yield scratch
                _flush(scratch)
                scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)

    @contextlib.contextmanager
    def whole_folder(self, name: str) -> Iterator[Path]:
        """A scratch folder beside the target; it takes the target's place when the block ends well."""
        if not self.keeps:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder)
            return
        target = self.path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
        try:
            with _faults_of_the_disk(scratch, target):
                yield scratch
                for file in scratch.rglob("*"):
                    if file.is_file():
                        _flush(file)
            scratch.chmod(0o755)
            old = scratch.with_name(f"{scratch.name}.old.part")
            if target.exists():
                target.rename(old)
            scratch.replace(target)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    # -- scores ------------------------------------------------------------------------------------------------------

    def write_scores(self, scores: Scores, positions: IntArray, name: str = "rank/scores.parquet") -> None:
        """Write the scores; ``positions`` (N,) tells each row's place among all rows read, from 0."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {column: _column(getattr(scores, field), len(scores)) for column, field in SCORE_COLUMNS.items()}
        table = pa.table({"id": columns.pop("id"), "row": positions, **columns})
        texts = {"id": pa.string(), "source": pa.string()}
        schema = pa.schema([(field.name, texts.get(field.name, field.type)) for field in table.schema])
        with self.whole_file(name) as scratch, pq.ParquetWriter(scratch, schema) as writer:
            for batch in table.to_batches(max_chunksize=ROW_GROUP):
                writer.write_batch(batch.cast(schema))

    def read_scores(self) -> Scores:
        """Read rank/scores.parquet. Raises UserError where it is missing or is not one."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.path("rank/scores.parquet")
        if not path.exists():
            raise UserError(f"{path}: no such file; run `sealtune rank` first")
        try:
            table = pq.read_table(path, columns=list(SCORE_COLUMNS), read_dictionary=["source"])
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, OverflowError) as error:
            raise UserError(f"{path}: not a file of scores ({error}); rank again") from None
        found = intact.scores(table, SCORE_COLUMNS, path)
        return replace(found, selector=self.read_selector(["safe_margin"]))

    def write_selector(self, scores: Scores, method: str, weighting: str) -> None:
        """Write the selector (its logits, in the order of scores.parquet, or what scores any row) and what it is."""
        from safetensors.numpy import save_file

        arrays = scores.selector or {"omega": scores.score}
        with self.whole_file("rank/selector.safetensors") as scratch:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, scratch)
        about = {"method": method, "weighting": weighting, "rows": len(scores)}
        if scores.selector:
            about |= {"kind": "scorer"}
        else:
            about |= {"kind": "free_logits", "ids": "rank/scores.parquet, column id"}
        self.write_json("rank/selector_config.json", about)

    def read_selector(self, names: Sequence[str] | None = None) -> dict[str, npt.NDArray[Any]]:
        """The selector's arrays, or those of these names that it has; none where there is no file."""
        from safetensors import SafetensorError, safe_open

        path = self.path("rank/selector.safetensors")
        if not path.exists():
            return {}
        try:
            with safe_open(path, framework="numpy") as file:
                return {name: file.get_tensor(name) for name in file.keys() if names is None or name in names}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path}: not a selector ({error}); rank again") from None

    # -- manifest ----------------------------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """The manifest; empty where there is none yet."""
        if not self.path("manifest.json").exists():
            return {}
        return intact.manifest(self.read_json("manifest.json"), self.path("manifest.json"))

    def is_done(self, stage: str, inputs: Mapping[str, Any]) -> bool:
        """Whether the stage was finished from these very inputs and its files are still as it left them."""
        entry = self.manifest().get("stages", {}).get(stage)
        if entry is None or entry["inputs"] != json.loads(json.dumps(inputs, default=plain)):
            return False
        outputs: dict[str, str] = entry["outputs"]
        return all(self.path(name).is_file() and hash_file(self.path(name)) == d for name, d in outputs.items())

    def adopt(self, stage: str, inputs: Mapping[str, Any], lender: RunFolder, about: Mapping[str, Any]) -> bool:
        """Take over a stage that another run finished from the same inputs; whether there was one to take."""
        if self.is_done(stage, inputs) or not lender.is_done(stage, inputs):
            return False
        entry = lender.manifest()["stages"][stage]
        for name in entry["outputs"]:
            with self.whole_file(name) as scratch:
                shutil.copyfile(lender.path(name), scratch)
        cost = {name: value for name, value in entry.items() if name not in ("inputs", "outputs", "finished")}
        self.finish_stage(stage, inputs, entry["outputs"], cost, about)
        return True

    def finish_stage(
        self,
        stage: str,
        inputs: Mapping[str, Any],
        outputs: Iterable[str],
        cost: Mapping[str, Any],
        about: Mapping[str, Any],
    ) -> None:
        """Enter a finished stage into the manifest: inputs, hashes of its outputs, cost; ``about`` at the top."""
        if not self.keeps:
            return
        manifest = self.manifest() | dict(about)
        entry = {
            "inputs": inputs,
            "outputs": {name: hash_file(self.path(name)) for name in outputs},
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **cost,
        }
        # What later stages made came from what this one replaced: they are no longer finished.
        before = STAGE_ORDER[: STAGE_ORDER.index(stage)]
        manifest["stages"] = {k: v for k, v in manifest.get("stages", {}).items() if k in before} | {stage: entry}
        self.write_json("manifest.json", manifest)

    def outputs_of(self, stage: str) -> dict[str, str]:
        """Hashes of a finished stage's files. Raises UserError where it was not run or they changed."""
        entry = self.manifest().get("stages", {}).get(stage)
        if entry is None:
            raise UserError(
                f"{self.root}: {stage} has not been run here; run `sealtune {stage} --out {self.root}` first"
            )
        outputs: dict[str, str] = entry["outputs"]
        for name, digest in outputs.items():
            if not self.path(name).is_file() or hash_file(self.path(name)) != digest:
                raise UserError(f"{self.path(name)}: changed or missing since {stage} was run; run that again")
        return outputs


SCORE_COLUMNS = {
    "id": "ids",
    "source": "source",
    "score": "score",
    "weight": "weight",
    "loss": "loss",
    "gap": "gap",
    "visits": "visits",
    "doubt": "doubt",
    "margin": "margin",
}
"""Column of scores.parquet -> field of Scores."""


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _column(values: Any, n: int) -> Any:
    """A column of n values; NaN in all of them where a ranker gives none."""
    if values is None:
        return np.full(n, np.nan)
    return values if isinstance(values, np.ndarray) else Texts.of(values).values


@contextlib.contextmanager
def _faults_of_the_disk(scratch: Path, target: Path) -> Iterator[None]:
    """Faults in writing ``scratch`` as OSErrors of ``target``; libraries in Rust tell them in words alone."""
    try:
        yield
    except Exception as error:
        told = re.search(r"\(os error (\d+)\)", str(error))
        number = getattr(error, "errno", None) or (int(told[1]) if told else None)
        elsewhere = str(getattr(error, "filename", None) or scratch)
        if number is None or not elsewhere.startswith(str(scratch)):
            raise
        raise OSError(number, os.strerror(number), str(target)) from error


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
