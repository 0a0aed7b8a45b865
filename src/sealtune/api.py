"""The Python API: what the commands do, with objects in place of files.

    import sealtune

    scores = sealtune.rank("smollm2-135m-instruct", rows, safe_rows, max_length=512, rank={"num_train_epochs": 2})
    selection = sealtune.select(scores, keep_ratio=0.8)
    model, tokenizer = sealtune.tune("smollm2-135m-instruct", rows, keep=selection.kept, safe=safe_rows)
    table = sealtune.evaluate(model, tokenizer, prompts)
    sealtune.guard(trainer, safe_rows)  # a trainer of TRL, before trainer.train()
    repaired = sealtune.repair(peft_model, safe_rows, rows)  # an adapter that was tuned anywhere, in place

Rows are dicts in any format that the commands read (a list of them, a ``datasets.Dataset``), a pandas data frame, the
path of a file, or the id of a hub data set. Progress
goes to the logger ``sealtune``; nothing is printed unless logging is configured.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from sealtune.core.config import Config
from sealtune.core.config_io import build_config
from sealtune.core.console import track
from sealtune.core.errors import UserError
from sealtune.core.string_array import StringArray
from sealtune.core.types import Prompt, Scores, Selection
from sealtune.pipeline.decisions import load_decisions
from sealtune.pipeline.inputs import RunInputs

if TYPE_CHECKING:
    from pandas import DataFrame
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTTrainer

    from sealtune.data.encoded import Encoded
    from sealtune.tuning.repair import Repaired

RowsLike: TypeAlias = "str | Iterable[Mapping[str, Any]] | DataFrame"


def rank(
    model: str | PreTrainedModel,
    rows: RowsLike,
    safe: RowsLike,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **settings: Any,
) -> Scores:
    """Score all usable rows; higher means keep.

    Args:
        model: Hub id, folder or GGUF file; or a model in memory, which is given back as it was.
        rows: The candidates.
        safe: Examples of safe behaviour.
        tokenizer: The model's tokenizer; None for that of the place the model was loaded from.
        settings: Keys of the config, e.g. ``max_length=512, rank={"method": "seal"}``.

    Raises:
        UserError: settings or rows cannot be used, or the model in memory has an adapter.
        RunError: a loss became NaN or infinite.
    """
    from sealtune.ranking import methods
    from sealtune.ranking.job import Job

    sources = {"datasets": _source(rows, "rows"), "safe_datasets": _source(safe, "safe")}
    inputs = _inputs(model, tokenizer, settings, **sources)
    config = inputs.for_ranking().config
    _require_whole_rows(config)
    made = load_decisions(config.rank.decisions, inputs.load_candidates())
    with track("rank") as advance, _loader(model, inputs) as load_model:
        job = Job(
            inputs.load_ranking_candidates(),
            inputs.for_ranking().load_safe().encoded,
            config,
            load_model,
            lambda record, total, state: advance(record.step, total, record.rows, record.tokens),
            decisions=made,
        )
        return methods.rank(job)


def score(
    model: str | PreTrainedModel,
    rows: RowsLike,
    ranked: Scores,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **settings: Any,
) -> Scores:
    """Score rows that were not ranked, on the scale of those that were.

    Args:
        model: The model passed to ``rank``.
        rows: New rows.
        ranked: The result of ``rank``.
        tokenizer: The tokenizer passed to ``rank``.
        settings: Those passed to ``rank``.

    Raises:
        UserError: settings or rows cannot be used, or the ranker scores only the rows that it ranks.
    """
    from sealtune.ranking import methods
    from sealtune.ranking.job import Job

    inputs = _inputs(model, tokenizer, settings, datasets=_source(rows, "rows"))
    methods.require_scores_unseen_rows(inputs.config.rank.method)
    encoded = inputs.for_ranking().load_candidates().encoded
    with _loader(model, inputs) as load_model:
        job = Job(encoded, encoded.take([]), inputs.for_ranking().config, load_model)
        return methods.score(job, ranked.selector)


def select(scores: Scores, **settings: Any) -> Selection:
    """Select the rows to keep: ``keep_ratio=0.8`` or ``threshold=...``, and ``decisions="decisions.jsonl"``.

    Raises:
        UserError: nothing would be kept, or a decision cannot be read.
    """
    from sealtune.data.decisions import read_decisions
    from sealtune.ranking import selection

    config = _config("", {"select": settings})
    _require_whole_rows(config)
    chosen = config.select
    made = read_decisions(chosen.decisions, scores.ids) if chosen.decisions else {}
    return selection.select(scores, chosen, made)


def tune(
    model: str, rows: RowsLike, keep: Collection[str] | None = None, safe: RowsLike | None = None, **settings: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Fine-tune the model; with ``safe``, the safe set stays in force (``tune.guard``).

    Args:
        model: Hub id, folder or GGUF file.
        rows: The rows to train on.
        keep: Ids of the rows to use; None for all.
        safe: Examples of safe behaviour, for the guard; None to tune on the rows alone.
        settings: Keys of the config, e.g. ``tune={"learning_rate": 1e-4}``.

    Returns:
        The tuned model and its tokenizer.

    Raises:
        UserError: settings, rows or ids cannot be used.
        RunError: the loss became NaN or infinite.
    """
    from sealtune.models import load as models
    from sealtune.pipeline.guard_set import guard_rows
    from sealtune.tuning.train import train

    sources = {} if safe is None else {"safe_datasets": _source(safe, "safe")}
    config = _config(model, settings, datasets=_source(rows, "rows"), **sources)
    inputs = RunInputs(config)
    encoded, tokenizer = inputs.load_candidates().encoded, inputs.load_tokenizer()
    if keep is not None:
        encoded = _kept(encoded, keep)
    guarded = guard_rows(inputs) if safe is not None and config.tune.guard != "off" else None
    with track("tune") as advance:
        base = models.load_model(config, full=not config.tune.use_peft)
        result = train(base, tokenizer, encoded, config, advance, safe=guarded)
    return result.model, tokenizer


def repair(
    model: PreTrainedModel,
    safe: RowsLike,
    rows: RowsLike | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **settings: Any,
) -> Repaired:
    """Make a LoRA adapter safe again, in place.

    Args:
        model: A PeftModel, for example the result of ``tune``.
        safe: Examples of safe behaviour.
        rows: Rows of the task, on which the adapter is kept as it is; without them only steps on the safe set are
            taken.
        tokenizer: Its tokenizer; None for that of the base model.
        settings: Keys of the config, e.g. ``tune={"guard": "teach"}``.

    Returns:
        What was measured before and after.

    Raises:
        UserError: The adapter is no LoRA adapter, or settings or rows cannot be used.
        RunError: A weight became NaN or infinite.
    """
    from sealtune.pipeline.repair import repair_model

    sources = {"safe_datasets": _source(safe, "safe")} | ({} if rows is None else {"datasets": _source(rows, "rows")})
    inputs = RunInputs(_config(model.config._name_or_path, settings, **sources), tokenizer=tokenizer)
    return repair_model(model, inputs.load_tokenizer(), inputs)


def guard(trainer: SFTTrainer, safe: RowsLike, **settings: Any) -> None:
    """Keep a safe set in force in a training by TRL's own trainer, as ``tune`` does (``tune.guard``).

    Safe rows add to the loss of every step, a third of them is held out and watched, and when the training ends the
    weights of the best step are put back. TRL's checkpoints do not contain the guard: a training resumed from one
    starts with its first multipliers.

    Args:
        trainer: TRL's SFTTrainer, before ``trainer.train()``: its model must still be the start model.
        safe: Examples of safe behaviour.
        settings: Keys of the config, e.g. ``tune={"guard": "keep"}``; what the trainer knows is taken from it.

    Raises:
        UserError: The trainer is none of TRL, its number of steps is not known, its weights are sharded, or settings or
            rows cannot be used.
    """
    from sealtune.pipeline.guard_in_trl import guard as guard_in_trl

    guard_in_trl(trainer, _source(safe, "safe"), settings)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Mapping[str, str]],
    name: str = "tuned",
    **settings: Any,
) -> list[dict[str, Any]]:
    """Ask the model the prompts, judge the answers, and run ``tasks`` if there are any.

    Args:
        model: The result of ``tune``, or any causal language model.
        tokenizer: Its tokenizer.
        prompts: Mappings with ``prompt`` and ``kind`` (``harmful`` or ``harmless``).
        name: The model's name in the table.
        settings: Keys of the config's ``evaluate`` block.

    Returns:
        Table rows: measure, value, 95 % interval and n.
    """
    from sealtune.evaluation import harness
    from sealtune.evaluation.judging import check, judge_all, require_answers, tabulate
    from sealtune.evaluation.measure import answer

    config = _config("", {"evaluate": settings}).evaluate
    asked = [Prompt(str(i), p["prompt"], p["kind"], p["kind"]) for i, p in enumerate(prompts)]
    check(config)
    require_answers(config)
    with track("answers") as advance:
        responses = answer(model, name, asked, tokenizer, config, advance)
    verdicts = judge_all(responses, config, {}, track)
    tasks = harness.measure(model, name, tokenizer, config) if config.tasks else []
    return tabulate(verdicts) + tasks


def _inputs(
    model: str | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, settings: dict[str, Any], **sources: Any
) -> RunInputs:
    """The rows and the tokenizer of a ranking; what a model in memory is, is not read from files again."""
    if isinstance(model, str):
        return RunInputs(_config(model, settings, **sources), tokenizer=tokenizer)
    name = model.config._name_or_path
    if not name and tokenizer is None:
        raise UserError("tokenizer: none given, and the model does not say where it was loaded from")
    known = {"dtype": str(model.dtype).removeprefix("torch.")} | settings
    return RunInputs(_config(name, known, **sources), tokenizer=tokenizer, model_config=model.config)


def _require_whole_rows(config: Config) -> None:
    """Raise UserError where answers would be scored one by one: only a run's folder holds two kinds of scores."""
    if config.select.granularity != "row":
        raise UserError("select.granularity=turn: use the command `sealtune run`; these functions score whole rows")


def _loader(
    model: str | PreTrainedModel, inputs: RunInputs
) -> AbstractContextManager[Callable[[bool], PreTrainedModel]]:
    """Yields what ``Job.load_model`` is: the model in memory unless another one ranks (``rank.model_name_or_path``)."""
    from sealtune.models.borrowed import borrowed
    from sealtune.models.load import load_model

    ranking = inputs.for_ranking()
    if isinstance(model, str) or ranking is not inputs:
        return nullcontext(lambda full: load_model(ranking.config, full=full))
    return borrowed(model)


def _config(model: str, settings: dict[str, Any], **sources: Any) -> Config:
    return build_config({"model_name_or_path": model, **settings, **sources}, "settings")


def _source(rows: RowsLike, name: str) -> list[dict[str, Any]]:
    return [{"path": rows} if isinstance(rows, str) else {"path": name, "rows": _records(rows)}]


def _records(rows: Iterable[Mapping[str, Any]] | DataFrame) -> list[dict[str, Any]]:
    """The rows as dicts; missing cells of a data frame are None, as in a ``datasets.Dataset``."""
    given: Any = rows
    if hasattr(given, "notna"):
        given = given.astype(object).where(given.notna(), None).to_dict("records")
    return [dict(row) for row in given]


def _kept(encoded: Encoded, keep: Collection[str]) -> Encoded:
    ids = StringArray.of(keep)
    if unknown := sorted(ids.take(np.flatnonzero(~ids.isin(encoded.ids)))):
        raise UserError(f"keep: {len(unknown)} ids are not among the rows, for example {unknown[0]}")
    return encoded.isin(keep)
