"""Exports for other trainers and the hub, one file per target: its name is that of the file, ``_`` written as ``-``.

Importing this package takes no time: the names of the targets stand in the help of the command.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from sealtune.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from sealtune.pipeline.export_job import Target


def names() -> list[str]:
    """The names of all targets."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def load_target(name: str) -> Target:
    """The target of this name. Raises UserError that names the nearest one if there is none."""
    if name not in names():
        hint = did_you_mean(name, names(), cutoff=0.4)
        raise UserError(" ".join(filter(None, [f"--to: no target {name!r};", hint, f"known: {', '.join(names())}"])))
    target: Target = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").TARGET
    return target
