"""What a model is still capable of: any task of lm-evaluation-harness, by its name or by a task file."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from sealtune.core.config import EvaluateConfig
from sealtune.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KIND = "task"
JUDGE = "lm-eval"
Z = NormalDist().inv_cdf(0.975)


def check(config: EvaluateConfig) -> None:
    """Raise UserError if the harness is not installed or does not know a task, before anything is computed."""
    if not config.tasks:
        return
    if find_spec("lm_eval") is None:
        raise UserError("evaluate.tasks needs the package lm-eval; pip install 'sealtune[eval]'")
    for name in config.tasks:
        if _is_file(name):
            if not Path(name).is_file():
                raise UserError(f"evaluate.tasks: {name}: no such task file")
        elif name not in (known := _manager(True).all_tasks):
            hint = did_you_mean(name, known) or "see `lm-eval ls tasks`, or name a task file (.yaml)"
            raise UserError(f"evaluate.tasks: lm-eval has no task {name!r}; {hint}")


def measure(
    model: PreTrainedModel, name: str, tokenizer: PreTrainedTokenizerBase, config: EvaluateConfig
) -> list[dict[str, Any]]:
    """Rows of the evaluation table, one per task and metric: ``set`` is the task, ``kind`` is ``task``.

    The interval is the value ± 1.96 standard errors of the harness (for a group, of its pooled tasks), or NaN if it
    reports none. ``unit`` is ``score``, the metric's own unit: most metrics are shares, a perplexity is not.

    Raises:
        UserError: a task that is unknown, or that the harness cannot load or run (it fetches most data from the hub).
    """
    check(config)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        found = simple_evaluate(
            # The wrapper changes the tokenizer's padding; a copy leaves ours unchanged.
            HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=config.batch_size),
            tasks=list(config.tasks),
            num_fewshot=config.task_num_fewshot,
            limit=config.task_limit,
            apply_chat_template=config.task_chat_template,
            task_manager=_manager(any(map(_needs_index, config.tasks))),
            log_samples=False,
            bootstrap_iters=1000,
        )
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # a task may raise anything; the user gets one line
        if "out of memory" in str(error):
            raise
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(f"evaluate.tasks: {', '.join(config.tasks)} cannot be run: {reason}") from None
    return [{"model": name, **row} for row in tabulate(found)]


def tabulate(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the harness's results: one per group, and one per task outside of all groups."""
    children: Mapping[str, list[str]] = found.get("group_subtasks") or {}
    groups = [name for name in found.get("groups") or {} if _has_metrics(found["results"].get(name, {}))]
    inner = {leaf for group in groups for leaf in _below(group, children)}
    tasks = [task for task in found["results"] if task in found["n-samples"] and task not in inner]
    rows = []
    for title in [*(group for group in groups if group not in inner), *tasks]:
        leaves = [leaf for leaf in _below(title, children) if leaf in found["n-samples"]] or [title]
        n = sum(found["n-samples"][leaf]["effective"] for leaf in leaves)
        rows += [{"set": title, "kind": KIND, "judge": JUDGE, **row, "n": n} for row in _rows(found["results"][title])]
    return rows


def _rows(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """``acc,none`` becomes the measure ``acc``; ``exact_match,strict-match`` becomes ``exact_match (strict-match)``."""
    for key, value in metrics.items():
        metric, _, chosen = key.partition(",")
        if not chosen or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = metrics.get(f"{metric}_stderr,{chosen}")
        half = Z * error if isinstance(error, int | float) else math.nan
        name = metric if chosen == "none" else f"{metric} ({chosen})"
        described = {"measure": name, "title": name, "unit": "score"}
        yield described | {"value": float(value), "low": value - half, "high": value + half}


def _has_metrics(metrics: Mapping[str, Any]) -> bool:
    return next(_rows(metrics), None) is not None


def _below(name: str, children: Mapping[str, list[str]]) -> list[str]:
    """All names below a group, at any depth."""
    own = [child for child in children.get(name, []) if child != name]
    return own + [deeper for child in own for deeper in _below(child, children)]


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _needs_index(name: str) -> bool:
    """Whether this is a task of the harness, or a file that may refer to one."""
    return not _is_file(name) or "group:" in Path(name).read_text(encoding="utf-8")


@cache
def _manager(with_known: bool) -> Any:
    """The harness's index of tasks. Reading its own tasks takes seconds, so it happens only if one is named."""
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(include_defaults=with_known)
