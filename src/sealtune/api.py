"""The verbs for Python: what the commands do, with objects in place of files.

    import sealtune

    scores = sealtune.rank("smollm2-135m-instruct", rows, safe_rows, max_length=512, rank={"num_train_epochs": 2})
    selection = sealtune.select(scores, keep_ratio=0.8)
    model, tokenizer = sealtune.tune("smollm2-135m-instruct", rows, keep=selection.kept)
    table = sealtune.evaluate(model, tokenizer, prompts)

Rows are lists of dicts in any format that the commands read, or the path of a file or the id of a hub data set.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sealtune.core.config import Config
from sealtune.core.config_io import build_config
from sealtune.core.console import track
from sealtune.core.errors import UserError
from sealtune.core.string_array import StringArray
from sealtune.core.types import Prompt, Scores, Selection
from sealtune.pipeline.inputs import Material

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RowsLike = str | Sequence[Mapping[str, Any]]


def rank(model: str, rows: RowsLike, safe: RowsLike, **settings: Any) -> Scores:
    """Scores of all usable rows, higher = keep.

    Args:
        model: hub id, folder or GGUF file.
        rows: the candidates.
        safe: rows that show safe behaviour.
        settings: keys of the config, e.g. ``max_length=512, rank={"method": "seal"}``.

    Raises:
        UserError: settings or rows that cannot be used.
        RunError: a loss became NaN or infinite.
    """
    from sealtune.models import load as models
    from sealtune.ranking import methods
    from sealtune.ranking.job import Job

    config = _config(model, settings, datasets=_source(rows, "rows"), safe_datasets=_source(safe, "safe"))
    whole = Material(config)
    material = whole.for_ranking
    with track("rank") as advance:
        job = Job(
            whole.ranked,
            material.safe[0],
            material.config,
            lambda full: models.load_model(material.config, full=full),
            lambda record, total, state: advance(record.step, total, record.rows, record.tokens),
        )
        return methods.rank(job)


def score(model: str, rows: RowsLike, ranked: Scores, **settings: Any) -> Scores:
    """Scores of rows that were not ranked, on the scale of those that were.

    Args:
        model: the model that ranked.
        rows: rows never seen.
        ranked: what ``rank`` gave.
        settings: those of ``rank``.

    Raises:
        UserError: settings or rows that cannot be used, or a ranker that scores only the rows that it ranks.
    """
    from sealtune.models import load as models
    from sealtune.ranking import methods
    from sealtune.ranking.job import Job

    config = _config(model, settings, datasets=_source(rows, "rows"))
    methods.require_scores_unseen_rows(config.rank.method)
    config = config.ranking
    encoded = Material(config).candidates[0]
    job = Job(encoded, encoded.take([]), config, lambda full: models.load_model(config, full=full))
    return methods.score(job, ranked.selector)


def select(scores: Scores, **settings: Any) -> Selection:
    """The rows to keep: ``keep_ratio=0.8`` or ``threshold=...``. Raises UserError where nothing would be kept."""
    from sealtune.ranking import selection

    return selection.select(scores, _config("", {"select": settings}).select)


def tune(
    model: str, rows: RowsLike, keep: Collection[str] | None = None, **settings: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model fine-tuned on the rows (those whose ids are in ``keep``), and its tokenizer.

    Raises:
        UserError: settings or rows that cannot be used.
        RunError: the loss became NaN or infinite.
    """
    from sealtune.models import load as models
    from sealtune.tuning import train as finetune

    config = _config(model, settings, datasets=_source(rows, "rows"))
    material = Material(config)
    encoded = material.candidates[0]
    if keep is not None:
        wanted = StringArray.of(keep)
        if unknown := sorted(wanted.take(np.flatnonzero(~wanted.isin(encoded.ids)))):
            raise UserError(f"keep: {len(unknown)} ids are not among the rows, for example {unknown[0]}")
        encoded = encoded.isin(keep)
    with track("tune") as advance:
        base = models.load_model(config, full=not config.tune.use_peft)
        tuned, _ = finetune.train(base, material.tokenizer, encoded, config, advance)
    return tuned, material.tokenizer


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Mapping[str, str]],
    name: str = "tuned",
    **settings: Any,
) -> list[dict[str, Any]]:
    """Table rows (measure, value, 95 % interval, n) of the model's answers to ``prompts``, and of ``tasks`` if named.

    Args:
        model: what ``tune`` gave, or any causal language model.
        tokenizer: its tokenizer.
        prompts: mappings with ``prompt`` and ``kind`` (``harmful`` or ``harmless``).
        name: what the table calls the model.
        settings: keys of the config's ``evaluate`` block.
    """
    from sealtune.evaluation import harness
    from sealtune.evaluation.judging import by_rule, judge_all, tabulate
    from sealtune.evaluation.measure import answer
    from sealtune.evaluation.metrics import summarise

    chosen = _config("", {"evaluate": settings}).evaluate
    asked = [Prompt(str(i), p["prompt"], p["kind"], p["kind"]) for i, p in enumerate(prompts)]
    with track("answers") as advance:
        responses = answer(model, name, asked, tokenizer, chosen, advance)
    verdicts = judge_all(responses, chosen, {}, track)
    tasks = harness.measure(model, name, tokenizer, chosen) if chosen.tasks else []
    return summarise(by_rule(verdicts)) + tabulate(verdicts) + tasks


def _config(model: str, settings: dict[str, Any], **sources: Any) -> Config:
    return build_config({"model_name_or_path": model, **settings, **sources}, "settings")


def _source(rows: RowsLike, name: str) -> list[dict[str, Any]]:
    return [{"path": rows} if isinstance(rows, str) else {"path": name, "rows": [dict(row) for row in rows]}]
