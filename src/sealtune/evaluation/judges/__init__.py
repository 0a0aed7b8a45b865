"""Judges of answers: one file each, named in the config by its file name.

A judge is one function, ``judge(responses, config) -> list[Verdict]``: one verdict a response, in the same order, with
id, model, set and kind of the response. It raises UserError where it cannot work at all.

A judge that asks a model is ``judge(responses, config, ask)``, where ``config`` is its own block and ``ask`` puts
questions to the model; its prompt lies beside it in ``<name>.md``. Its file also has ``MEASURES``, what its verdicts
are summed up to (name of a measure -> ``score``, a mean, or ``flagged``, a share), and may have ``KINDS``, the kinds of
prompts that it is for.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any, Protocol, cast

from sealtune.core.config import EvaluateConfig
from sealtune.core.errors import UserError, did_you_mean
from sealtune.core.types import Response, Verdict


class Judge(Protocol):
    """What every file of this folder provides under the name ``judge``."""

    def __call__(self, responses: Sequence[Response], config: EvaluateConfig | None = None) -> list[Verdict]:
        """One verdict a response, in order."""


def judge_names() -> list[str]:
    """The judges there are, sorted: the names of this folder's files."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def get_judge(name: str) -> Judge:
    """The judge of this name. Raises UserError that lists the judges there are."""
    return cast(Judge, load_judge(name).judge)


def load_judge(name: str) -> Any:
    """The module of a judge. Raises UserError that lists the judges there are and names the nearest."""
    names = judge_names()
    if name not in names:
        hint = did_you_mean(name, names, cutoff=0.5)
        told = [f"evaluate.judges: no judge named {name!r};", hint, f"there are: {', '.join(names)}"]
        raise UserError(" ".join(filter(None, told)))
    return importlib.import_module(f"{__name__}.{name}")
