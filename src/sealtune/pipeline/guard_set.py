"""The safe set for the guard: which of its prompts are harmful."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from sealtune.core.errors import UserError
from sealtune.core.types import Sample
from sealtune.evaluation.answer_openings import openings_of
from sealtune.evaluation.refusals import is_refusal
from sealtune.pipeline.inputs import RunInputs
from sealtune.tuning.guard_rows import GuardRows

logger = logging.getLogger(__name__)

DEFAULT_COLUMN = "kind"
MAX_ANSWERS = 2000
"""Answers in which openings of refusals are looked for."""
KINDS = {"harmful": True, "harmless": False}


def guard_rows(inputs: RunInputs) -> GuardRows | None:
    """The usable rows of the safe set in two halves; None without a safe set, which is logged.

    Raises:
        UserError: ``tune.guard_column`` is missing in a row or says something else than harmful or harmless.
    """
    if not inputs.config.safe_datasets:
        logger.warning("tune.guard: there is no safe set, so nothing guards the tuning; give one with --safe FILE")
        return None
    safe = inputs.load_safe()
    column = inputs.config.tune.guard_column
    samples = safe.rows.samples
    places = samples.ids.index_in(safe.encoded.ids)
    refuses = np.fromiter((is_harmful(samples[int(i)], column) for i in places), np.bool_, len(safe.encoded))
    openings = openings_of(samples[int(i)].response for i in places[:MAX_ANSWERS])
    return _reported(GuardRows(safe.encoded, refuses, openings))


def is_harmful(sample: Sample, column: str | None) -> bool:
    """Whether the prompt of a safe row is harmful: by a column (None: ``kind``, if there is one), or by its answer.

    Raises:
        UserError: The column that is named says something else.
    """
    value = _kind(sample.row, column or DEFAULT_COLUMN)
    if value is not None:
        return value
    if column is None:
        return is_refusal(sample.response)
    raise UserError(
        f"tune.guard_column: row {sample.id} of {sample.source} has {column}={str(sample.row.get(column))[:40]!r}; "
        "it must be harmful or harmless"
    )


def _kind(row: Mapping[str, Any], column: str) -> bool | None:
    return KINDS.get(str(row.get(column, "")).strip().lower())


def _reported(rows: GuardRows) -> GuardRows:
    harmful = int(rows.refuses.sum())
    logger.info("guard: %d safe rows answer harmful prompts, %d harmless ones", harmful, len(rows) - harmful)
    if harmful in (0, len(rows)):
        missing = "harmful" if harmful == 0 else "harmless"
        logger.warning(
            "guard: no safe row answers a %s prompt: the model may %s; add some to the safe set, or name the column "
            "that says harmful or harmless in tune.guard_column",
            missing,
            "answer what it should refuse" if harmful == 0 else "refuse what it should answer",
        )
    return rows
