"""Files and folders that are written atomically: they appear complete or not at all."""

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
from sealtune.core.json_rows import nan_to_null, to_json_line, to_json_type
from sealtune.core.sanitize import is_valid_utf8


class Folder:
    """A folder whose files are written atomically.

    With ``read_only=True``, as in all processes but the main one, writes go to a temporary place and are discarded.
    """

    def __init__(self, root: str | Path, *, read_only: bool = False) -> None:
        self.root = Path(root)
        self.read_only = read_only

    def path(self, name: str) -> Path:
        """The path of a file in the folder. Raises UserError if the name leads out of the folder."""
        return resolve_inside(self.root, name)

    def prepare(self) -> None:
        """Create the folder and delete partial files of a killed run. Raises UserError if it is not writable."""
        if self.read_only:
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root, prefix=".probe."):
                pass
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):  # a full disk is no reason to choose another folder
                raise
            raise UserError(
                f"output_dir: {self.root} cannot be written to ({error.strerror}); choose another folder"
            ) from None
        for part in (*self.root.glob(".*.part"), *self.root.glob("*/.*.part")):
            shutil.rmtree(part) if part.is_dir() and not part.is_symlink() else part.unlink()

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        with self.atomic_file(name) as scratch:
            scratch.write_text(text, encoding="utf-8")

    def write_json(self, name: str, content: Any) -> None:
        """Write an indented JSON file; NaN and infinities become null."""
        text = json.dumps(nan_to_null(content), indent=2, ensure_ascii=False, default=to_json_type)
        if not is_valid_utf8(text):  # a lone surrogate must stay an escape
            text = json.dumps(nan_to_null(content), indent=2, default=to_json_type)
        self.write_text(name, f"{text}\n")

    def write_strings(self, name: str, strings: Iterable[str]) -> None:
        """Write a JSON list of strings, one per line."""
        with self.atomic_file(name) as scratch, scratch.open("w", encoding="utf-8") as file:
            file.write("[")
            for i, string in enumerate(strings):
                file.write(f"{',' if i else ''}\n  {json.dumps(string, ensure_ascii=False)}")
            file.write("\n]\n")

    def write_jsonl(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows, one JSON object per line. Values of types that JSON lacks (dates in Parquet) become strings."""
        with self.atomic_file(name) as scratch, scratch.open("wb") as file:
            file.writelines(to_json_line(row) for row in rows)

    def read_json(self, name: str) -> Any:
        """The content of a JSON file. Raises UserError if it is missing or broken."""
        path = self.path(name)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; run the stage that writes it first") from None
        return parse_json(content, str(path))

    def read_jsonl(self, name: str) -> list[dict[str, Any]]:
        """The rows of a JSONL file; empty if it is missing. Raises UserError that names a broken line."""
        return list(self.iter_jsonl(name))

    def iter_jsonl(self, name: str) -> Iterator[dict[str, Any]]:
        """Like ``read_jsonl``, but streamed: the rows need not fit into memory."""
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
    def atomic_file(self, name: str) -> Iterator[Path]:
        """A scratch path next to the target; it replaces the target if the block succeeds."""
        if self.read_only:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder, Path(name).name)
            return
        target = self._writable(name)
        scratch = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with _naming_target(scratch, target):
                yield scratch
                _flush(scratch)
                scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)

    @contextlib.contextmanager
    def atomic_folder(self, name: str) -> Iterator[Path]:
        """A scratch folder next to the target; it replaces the target if the block succeeds."""
        if self.read_only:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder)
            return
        target = self._writable(name)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
        try:
            with _naming_target(scratch, target):
                yield scratch
                for file in scratch.rglob("*"):
                    if file.is_file():
                        _flush(file)
            scratch.chmod(0o755)
            _replace_folder(target, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _writable(self, name: str) -> Path:
        target = self.path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target


def _replace_folder(target: Path, replacement: Path) -> None:
    old = replacement.with_name(f"{replacement.name}.old.part")
    if target.exists():
        target.rename(old)
    replacement.replace(target)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _naming_target(scratch: Path, target: Path) -> Iterator[None]:
    """Re-raise errors in writing ``scratch`` as an OSError that names ``target``.

    Libraries written in Rust report the errno only in the text of the message.
    """
    try:
        yield
    except Exception as error:
        in_text = re.search(r"\(os error (\d+)\)", str(error))
        number = getattr(error, "errno", None) or (int(in_text[1]) if in_text else None)
        filename = str(getattr(error, "filename", None) or scratch)
        if number is None or not filename.startswith(str(scratch)):
            raise
        raise OSError(number, os.strerror(number), str(target)) from error


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resolve_inside(root: Path, name: str) -> Path:
    """The path of a file in a folder. Raises UserError if the name leads out of the folder."""
    relative = PurePath(name)
    longest = max((len(part.encode("utf-8", "replace")) for part in relative.parts), default=0)
    if relative.is_absolute() or ".." in relative.parts or "\0" in name or longest > 255 or len(name) > 1000:
        raise UserError(f"{root}: names {name!r}, which is no file of this folder")
    return root / relative


def parse_json(content: bytes, where: str) -> Any:
    """The parsed value. Raises UserError that starts with ``where``."""
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({error}); delete the file and run the stage again") from None


def cache_folder() -> Path:
    """The folder for converted models: ``$SEALTUNE_CACHE``, or ``sealtune`` in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("SEALTUNE_CACHE") or f"{base}/sealtune").expanduser()
