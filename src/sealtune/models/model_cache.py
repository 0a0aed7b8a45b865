"""Models converted or merged once, kept in the user's cache as ordinary checkpoints."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from sealtune.core.files import cache_folder


def cached_folder(name: str, write: Callable[[Path], None]) -> Path:
    """The folder of this name in the cache, written if it does not exist. Other processes wait for it meanwhile.

    Args:
        name: States everything that the content depends on.
        write: Writes the content to an empty folder; it may raise, then nothing is kept.
    """
    from filelock import FileLock

    folder = cache_folder() / "models" / name
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{name}.lock")):
        if not folder.exists():
            scratch = Path(tempfile.mkdtemp(dir=folder.parent))
            try:
                write(scratch)
                scratch.rename(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return folder
