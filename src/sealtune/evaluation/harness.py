"""What a model still can do: any task of lm-evaluation-harness, by its name or by a task file."""

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
WIDTH = NormalDist().inv_cdf(0.975)


def check(config: EvaluateConfig) -> None:
    """Raise UserError where the harness is absent or does not know a task, before anything is paid for."""
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
    """Rows of the evaluation table, one a task and metric: ``set`` is the task, ``kind`` ``task``.

    The interval is the value and 1.96 standard errors as the harness gives them (of a group that of its pooled
    tasks); none where it gives none. Values are in the metric's own unit: most are shares, a perplexity is not.

    Raises:
        UserError: a task is not known, or the harness cannot load or run it (it fetches most of its data from the hub).
    """
    check(config)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        found = simple_evaluate(
            # The wrapper sets the tokenizer's padding; a copy keeps ours as it is.
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
    except Exception as error:  # a task is a program of its own: whatever it raises, the user reads one line
        if "out of memory" in str(error):
            raise
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(f"evaluate.tasks: {', '.join(config.tasks)} cannot be run: {reason}") from None
    return [{"model": name, **row} for row in tabulate(found)]


def tabulate(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of what the harness returns: each group as one, and each task that is in none."""
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
    """``acc,none`` is the measure ``acc``; ``exact_match,strict-match`` names the filter behind it."""
    for key, value in metrics.items():
        metric, _, chosen = key.partition(",")
        if not chosen or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = metrics.get(f"{metric}_stderr,{chosen}")
        half = WIDTH * error if isinstance(error, int | float) else math.nan
        shown = metric if chosen == "none" else f"{metric} ({chosen})"
        yield {"measure": shown, "value": float(value), "low": value - half, "high": value + half}


def _has_metrics(metrics: Mapping[str, Any]) -> bool:
    return next(_rows(metrics), None) is not None


def _below(name: str, children: Mapping[str, list[str]]) -> list[str]:
    """All names below a group, of any depth."""
    own = [child for child in children.get(name, []) if child != name]
    return own + [deeper for child in own for deeper in _below(child, children)]


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _needs_index(name: str) -> bool:
    """Whether this is a task of the harness, or a file that may name some."""
    return not _is_file(name) or "group:" in Path(name).read_text(encoding="utf-8")


@cache
def _manager(with_known: bool) -> Any:
    """The harness's index of tasks; reading its own takes seconds, so only where one is named."""
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(include_defaults=with_known)
