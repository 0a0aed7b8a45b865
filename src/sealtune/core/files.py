"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from sealtune.core.errors import UserError
from sealtune.core.json_rows import json_line, plain, without_nan
from sealtune.core.sanitize import can_be_written


class Folder:
    """A folder whose files appear whole or not at all.

    With ``keeps=False``, in a process other than the main one, whatever is written is thrown away.
    """

    def __init__(self, root: str | Path, *, keeps: bool = True) -> None:
        self.root = Path(root)
        self.keeps = keeps

    def path(self, name: str) -> Path:
        """Where a file of the run lies. Raises UserError where the name leads out of the folder."""
        return inside(self.root, name)

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
        return parse_json(content, str(path))

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
                row = parse_json(line, f"{path}, line {number}")
                if not isinstance(row, dict):
                    raise UserError(f"{path}, line {number}: not an object; run the stage again")
                yield row

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


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _faults_of_the_disk(scratch: Path, target: Path) -> Iterator[None]:
    """NonFiniteRows in writing ``scratch`` as OSErrors of ``target``; libraries in Rust tell them in words alone."""
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


def inside(root: Path, name: str) -> Path:
    """Where a file of the folder lies. Raises UserError where its name leads out of it."""
    parts = PurePath(name)
    longest = max((len(part.encode("utf-8", "replace")) for part in parts.parts), default=0)
    if parts.is_absolute() or ".." in parts.parts or "\0" in name or longest > 255 or len(name) > 1000:
        raise UserError(f"{root}: names {name!r}, which is no file of this folder")
    return root / parts


def parse_json(content: bytes, where: str) -> Any:
    """The value. Raises UserError that names the place."""
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({error}); delete the file and run the stage again") from None


def cache_folder() -> Path:
    """Where converted models are kept: $SEALTUNE_CACHE, else sealtune in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("SEALTUNE_CACHE") or f"{base}/sealtune").expanduser()
