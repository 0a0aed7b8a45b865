"""Which files of a folder hold the rows of a split: as its README says, as on the hub, or as their names say.

No link and no pattern leads out of the folder, and nothing in it is executed.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath

from sealtune.core.errors import UserError
from sealtune.data.dataset_card import DataFiles, read_card
from sealtune.data.split_names import split_of

logger = logging.getLogger(__name__)

MAX_FILES = 100_000
"""Files in a folder; more are a mistake in the path."""

_SHARD = re.compile(r"(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}\..+")
_DOCUMENTS = re.compile(
    r"(readme|license|licence|notice|citation|changelog|contributing)\b.*|dataset_infos?\.json|croissant.*\.json|"
    r".*\.(md|rst|py|ipynb|sh|bib|lock|sha256|md5|crc)|_success",
    re.IGNORECASE,
)
"""Files that come with rows and hold none."""


def split_files(folder: Path, split: str, name: str | None = None) -> list[Path]:
    """The files of one split, in the order of their names.

    Args:
        folder: The folder.
        split: The split.
        name: The configuration in the README; without several of them, any name.

    Raises:
        UserError: there is no such split or configuration, a pattern matches no file, or a link leaves the folder.
    """
    found = _list_files(folder)
    patterns = read_card(folder, name)
    by_split = _by_pattern(folder, found, patterns) if patterns else _by_name(found)
    if split not in by_split:
        splits = ", ".join(by_split) or "no data files"
        raise UserError(f"{folder}: no split {split!r}; it has {splits}; choose one with `split`, or name the files")
    _log_rest(folder, split, by_split, found)
    return [folder / file for file in by_split[split]]


def is_document(path: Path | PurePosixPath) -> bool:
    """Whether a file belongs to a data set without holding its rows: hidden files, a README, a licence, code."""
    return path.name.startswith(".") or bool(_DOCUMENTS.fullmatch(path.name))


def natural_order(path: Path | PurePosixPath) -> list[tuple[str, int, str]]:
    """A key to sort paths by: ``part-10`` stands after ``part-9``."""
    return [("", int(part), part) if part.isdecimal() else (part, -1, part) for part in re.split(r"(\d+|/)", str(path))]


def _list_files(folder: Path) -> list[PurePosixPath]:
    """All files below a folder but hidden ones, relative to it. Raises UserError."""
    root, found = _resolved_root(folder), []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*folders, *names):
            path = Path(place, name)
            if not name.startswith(".") and path.is_symlink() and not path.resolve().is_relative_to(root):
                raise UserError(f"{path}: a link that leads out of the folder; name the file itself in the config")
        found += [PurePosixPath(Path(place, name).relative_to(folder)) for name in names if not name.startswith(".")]
        if len(found) > MAX_FILES:
            raise UserError(f"{folder}: more than {MAX_FILES:,} files; name a folder that holds only rows")
    _require_no_saved_parts(folder, found)
    return sorted(found, key=natural_order)


def _resolved_root(folder: Path) -> Path:
    """The folder that links must not leave. A snapshot in the hub's cache consists of links to files beside it."""
    root = folder.resolve()
    is_snapshot = root.parent.name == "snapshots" and (root.parents[1] / "blobs").is_dir()
    return root.parents[1] if is_snapshot else root


def _require_no_saved_parts(folder: Path, found: Iterable[PurePosixPath]) -> None:
    """Raise UserError if ``save_to_disk`` wrote folders in the folder, whose files are not rows by themselves."""
    saved = [str(path.parent) for path in found if path.name == "state.json"]
    if saved:
        raise UserError(f"{folder}: holds folders of save_to_disk ({', '.join(saved[:5])}); name one of them")


# -- splits ------------------------------------------------------------------------------------------------------------

BySplit = Mapping[str, Sequence[PurePosixPath]]


def _by_pattern(folder: Path, found: Sequence[PurePosixPath], data_files: DataFiles) -> BySplit:
    by_split = {}
    for split, patterns in data_files.items():
        chosen: dict[PurePosixPath, None] = {}
        for pattern in patterns:
            matching = [path for path in found if _matches(path.parts, tuple(PurePosixPath(pattern).parts))]
            if not matching:  # perhaps a folder
                inside = (*PurePosixPath(pattern).parts, "**")
                matching = [path for path in found if not is_document(path) and _matches(path.parts, inside)]
            if not matching:
                raise UserError(f"{folder}: its README.md names {pattern}, but no such file is there; download it")
            chosen |= dict.fromkeys(matching)
        by_split[split] = list(chosen)
    return by_split


@cache
def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a path matches a pattern, part by part; ``**`` is any number of parts."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or (bool(parts) and _matches(parts[1:], pattern))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _by_name(found: Iterable[PurePosixPath]) -> BySplit:
    """Files by split, as the hub infers it: by shards, words in folders, words in files; else all are train."""
    files = [path for path in found if not is_document(path)]
    for find in (_shard_split, _folder_split, lambda path: split_of(path.name)):
        by_split = defaultdict(list)
        for path in files:
            if (split := find(path)) is not None:
                by_split[split].append(path)
        if by_split:
            return by_split
    return {"train": files} if files else {}


def _shard_split(path: PurePosixPath) -> str | None:
    shard = _SHARD.fullmatch(path.name)
    return shard["split"] if shard and path.parent == PurePosixPath("data") else None


def _folder_split(path: PurePosixPath) -> str | None:
    return split_of(str(path.parent))


def _log_rest(folder: Path, split: str, by_split: BySplit, found: Iterable[PurePosixPath]) -> None:
    """Say once which files that may hold rows are not read."""
    left_out = [str(path) for path in found if path not in set(by_split[split]) and not is_document(path)]
    if left_out:
        more = f" and {len(left_out) - 5:,} more" if len(left_out) > 5 else ""
        count = f"{len(by_split[split]):,}"
        logger.info(
            "%s: files of the split %s: %s; not read: %s%s", folder, split, count, ", ".join(left_out[:5]), more
        )
