"""The safe set of a run, examined; the start model is asked whether it would answer its prompts or refuse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sealtune.core.console import track
from sealtune.core.string_array import StringArray
from sealtune.core.types import Sample
from sealtune.data.encoded import Encoded
from sealtune.evaluation.likelihood import with_default
from sealtune.models.load import load_model
from sealtune.models.model_config import load_model_config
from sealtune.models.openings import encode_openings, refusal_log_probs
from sealtune.models.skeleton import skeleton
from sealtune.models.sources import resolve_model
from sealtune.pipeline.inputs import RunInputs, TokenizedRows
from sealtune.pipeline.safe_set_findings import Finding, Halves, StartAnswers, examine, split
from sealtune.tuning.guard import LIKELY
from sealtune.tuning.guard_rows import GuardRows
from sealtune.tuning.predictor import start_of_answers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_PARAMETERS = 600_000_000
"""Size of the models in local files that are asked unless the user says otherwise; a minute or two on a CPU."""
MAX_ASKED = 32
"""Rows of each half that the start model is asked, spread over the half."""
MAX_PROMPT_LENGTH = 256
"""Tokens of the prompts that it is asked."""


def examine_safe_set(inputs: RunInputs, model_answers: bool | None = None) -> list[Finding]:
    """What the safe set of a run has and lacks.

    Args:
        inputs: The run's.
        model_answers: Whether the start model is asked to answer its prompts; None: if it is small, and in local files.

    Raises:
        UserError: Rows, prompts or the model cannot be loaded.
    """
    safe, candidates = inputs.load_safe(), inputs.load_candidates()
    halves = split(_usable(safe), inputs.config.tune.guard_column)
    asks = is_small(inputs) if model_answers is None else model_answers
    start = ask_start_model(inputs, halves, safe.encoded) if asks else None
    asked = inputs.load_prompts().asked
    if inputs.config.evaluate.likelihood:
        asked = with_default(asked)
    return examine(halves, candidates.rows.samples, (prompt.prompt for prompt in asked), start)


def _usable(rows: TokenizedRows) -> Sequence[Sample]:
    samples = rows.rows.samples
    return samples.take(np.flatnonzero(samples.ids.isin(rows.encoded.ids)))


def is_small(inputs: RunInputs) -> bool:
    """Whether the start model is in local files, and answers fast."""
    config = inputs.config
    if not Path(resolve_model(config.model_name_or_path)).exists():
        return False
    model = skeleton(load_model_config(config), trust_remote_code=config.trust_remote_code)
    return model is not None and model.num_parameters() <= MAX_PARAMETERS


def ask_start_model(inputs: RunInputs, halves: Halves, encoded: Encoded) -> StartAnswers:
    """How often the start model would refuse: on either half, by the likelihood of its openings.

    Raises:
        UserError: The model cannot be loaded.
    """
    tokenizer = inputs.load_tokenizer()
    openings, limit = encode_openings(tokenizer), inputs.length_limit()
    room = limit.tokens - max(map(len, openings)) if limit else MAX_PROMPT_LENGTH
    longest = min(room, MAX_PROMPT_LENGTH)
    refusing, helping = (_prompts(half, encoded, tokenizer, longest) for half in halves)
    model = load_model(inputs.config)
    with track("safe set: answers of the start model") as advance:
        refused = refusal_log_probs(model, refusing + helping, openings, advance=advance).exp() > LIKELY
    first = len(refusing)
    return StartAnswers(first, int(refused[:first].sum()), len(helping), int(refused[first:].sum()))


def _prompts(
    half: Sequence[Sample], encoded: Encoded, tokenizer: PreTrainedTokenizerBase, longest: int = MAX_PROMPT_LENGTH
) -> list[list[int]]:
    """The prompts of some rows as token ids, with what the template writes at the start of every answer."""
    written = start_of_answers(tokenizer)
    positions = StringArray.of(encoded.ids).index_in([sample.id for sample in half])
    rows = GuardRows(encoded, np.zeros(len(encoded), np.bool_))
    found = [rows.prompt_of(int(positions[i])) + written for i in _spread(len(positions), MAX_ASKED)]
    return [prompt for prompt in found if len(prompt) <= longest]


def _spread(count: int, most: int) -> list[int]:
    """At most ``most`` positions of ``count``, evenly spaced."""
    return list(range(count)) if count <= most else [i * count // most for i in range(most)]
