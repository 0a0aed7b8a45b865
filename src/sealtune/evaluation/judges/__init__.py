"""Judges of answers, one file per judge: the name of the file is the name in the config (``evaluate.judges``).

Every file ends with ``JUDGE``, a ``judge_protocol.Judge``.
"""

from __future__ import annotations

import importlib
import pkgutil

from sealtune.core.errors import UserError, did_you_mean
from sealtune.evaluation.judge_protocol import Judge


def judge_names() -> list[str]:
    """The names of all judges, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load_judge(name: str) -> Judge:
    """The judge of this name. Raises UserError that names the nearest one, and all, if there is none."""
    names = judge_names()
    if name not in names:
        hint = did_you_mean(name, names, cutoff=0.5)
        parts = [f"evaluate.judges: no judge named {name!r};", hint, f"known: {', '.join(names)}"]
        raise UserError(" ".join(filter(None, parts)))
    judge: Judge = importlib.import_module(f"{__name__}.{name}").JUDGE
    return judge
