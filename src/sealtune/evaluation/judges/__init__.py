"""Judges of answers: one file each, named in the config by its file name.

A judge is one function, ``judge(responses, config) -> list[Verdict]``: one verdict a response, in the same order, with
id, model, set and kind of the response. It raises UserError where it cannot work at all (no server to ask).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Protocol, cast

from sealtune.config import EvaluateConfig
from sealtune.records import Response, UserError, Verdict


class Judge(Protocol):
    """What every file of this folder provides under the name ``judge``."""

    def __call__(self, responses: Sequence[Response], config: EvaluateConfig | None = None) -> list[Verdict]:
        """One verdict a response, in order."""


def judge_names() -> list[str]:
    """The judges there are, sorted: the names of this folder's files."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def get_judge(name: str) -> Judge:
    """The judge of this name. Raises UserError that lists the judges there are."""
    if name not in judge_names():
        raise UserError(f"evaluate.judges: no judge named {name!r}; there are: {', '.join(judge_names())}")
    return cast(Judge, importlib.import_module(f"{__name__}.{name}").judge)
