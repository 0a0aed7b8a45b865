"""All judges of a run: what they need, their verdicts, and the table of their measures and errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from sealtune.core.config import EvaluateConfig, JudgeConfig
from sealtune.core.console import Advance
from sealtune.core.errors import UserError
from sealtune.core.types import Response, Verdict
from sealtune.evaluation.ask import Cache, ask
from sealtune.evaluation.judge_protocol import ERRORS, Measure, Outcome, Question, prompt_template
from sealtune.evaluation.judges import load_judge
from sealtune.evaluation.metrics import Interval, mean_interval, wilson
from sealtune.evaluation.ping import Pinged, ping, require_answers
from sealtune.evaluation.servers import require_model, server_for

__all__ = [
    "Pinged",
    "check",
    "describe_errors",
    "identities",
    "judge_all",
    "ping",
    "request_changes",
    "require_answers",
    "tabulate",
]

Track = Callable[[str], AbstractContextManager[Advance]]


def check(config: EvaluateConfig) -> None:
    """Raise UserError if a judge is unknown or lacks what it needs, before anything is paid for."""
    for spec in config.judges:
        judge = load_judge(spec.name)
        require_model(spec)
        if judge.asks_model and spec.base_url is not None:
            server_for(spec)  # raises if its key is not set
        if spec.format is not None and spec.format not in judge.formats:
            known = f"formats: {', '.join(judge.formats)}" if judge.formats else "this judge has none; remove it"
            raise UserError(f"evaluate.judges: {spec.name}: no format {spec.format!r}; {known}")
        if judge.pairwise and not config.base:
            raise UserError(
                f"evaluate.judges: {spec.name} compares the tuned model with the base; set evaluate.base=true"
            )
    duplicates = [name for name, n in Counter(spec.name for spec in config.judges).items() if n > 1]
    if duplicates:
        raise UserError(f"evaluate.judges: {duplicates[0]} is listed twice; its verdicts could not be told apart")


def identities(config: EvaluateConfig) -> list[dict[str, Any]]:
    """Everything that the verdicts of each judge depend on; time-outs and retries do not count.

    Raises:
        UserError: a judge is unknown or has no model.
    """
    return [_identity(spec) for spec in config.judges]


def judge_all(responses: Sequence[Response], config: EvaluateConfig, cache: Cache, track: Track) -> list[Verdict]:
    """The verdicts of all judges, one judge after the other.

    Raises:
        UserError: a judge lacks what it needs.
        RunError: a judge's server does not answer; the replies so far are in ``cache``.
    """
    check(config)
    verdicts: list[Verdict] = []
    for spec in config.judges:
        judge = load_judge(spec.name)
        chosen = [response for response in responses if response.kind in judge.kinds]
        if not judge.asks_model:
            verdicts += judge.judge(chosen, spec, _ask_no_model)
            continue
        with track(f"judge: {spec.name}") as advance:
            verdicts += judge.judge(chosen, spec, partial(ask, server=server_for(spec), cache=cache, advance=advance))
    return verdicts


def request_changes(config: EvaluateConfig, records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """How the requests to each judge or served model had to be changed: ``{"temperature": None}``, it was not sent.

    Args:
        config: The judges and served models.
        records: Cached replies.
    """
    specs = {spec.name: spec for spec in config.judges}
    specs |= {f"answer of {name}": spec for name, spec in config.endpoints.items()}
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        spec = specs.get(str(record.get("judge")))
        if spec is None or any(record.get(key) != getattr(spec, key) for key in ("base_url", "model", "revision")):
            continue
        if record.get("temperature", 0) is None or "limit_parameter" in record:
            found[str(record["judge"])] = {
                key: record[key] for key in ("temperature", "limit_parameter") if key in record
            }
    return found


def tabulate(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Rows of the evaluation table: each measure per model, judge and prompt set, and over all sets of a kind.

    Keys: model, set (``all`` for all sets), kind, judge, measure, title, unit, value, low, high (95 % interval), n, and
    the number of verdicts that are missing because they were ``unparsed``, ``declined`` or ``failed``. Missing verdicts
    count in no measure; if there are any, a row of that name has their share.
    """
    groups: dict[tuple[str, str, str, str], list[Verdict]] = {}
    for verdict in verdicts:
        for name in (verdict.set, "all"):
            groups.setdefault((verdict.model, verdict.judge, verdict.kind, name), []).append(verdict)
    return [row for key, group in groups.items() for row in _rows(*key, group)]


def describe_errors(verdicts: Sequence[Verdict]) -> list[str]:
    """One line per judge with missing verdicts, with the first reason of each kind."""
    lines = []
    for name in dict.fromkeys(v.judge for v in verdicts):
        own = [v for v in verdicts if v.judge == name]
        counts = Counter(v.label for v in own if v.error is not None)
        if counts:
            first = {v.label: v.error for v in reversed(own) if v.error is not None}
            reasons = "; ".join(f"{n} {kind} (first: {first[kind]})" for kind, n in counts.items())
            lines.append(f"judge {name}: {sum(counts.values())} of {len(own)} answers have no verdict: {reasons}")
            if "failed" in counts:
                lines.append(f"judge {name}: --force asks again for those that failed; the others are kept")
    return lines


def _rows(model: str, judge: str, kind: str, name: str, group: Sequence[Verdict]) -> list[dict[str, Any]]:
    errors = Counter(v.label for v in group if v.error is not None)
    missing = {label: errors[label] for label in ERRORS}
    where = {"model": model, "set": name, "kind": kind, "judge": judge}
    rows = []
    for key, measure in load_judge(judge).measures.items():
        values = [value for v in group if (value := measure.value(v)) is not None]
        if values:
            described = {"measure": key, "title": measure.title, "unit": measure.unit}
            rows.append(where | described | _interval(values, measure)._asdict() | missing)
    for label, count in errors.items():
        described = {"measure": label, "title": ERRORS[label], "unit": "share"}
        rows.append(where | described | wilson(count, len(group))._asdict() | missing)
    return rows


def _interval(values: Sequence[float], measure: Measure) -> Interval:
    return mean_interval(values) if measure.field == "score" else wilson(int(sum(values)), len(values))


def _ask_no_model(questions: Sequence[Question]) -> Sequence[Outcome]:
    raise RuntimeError("a judge that asks a model must state Judge(..., asks_model=True)")


def _identity(spec: JudgeConfig) -> dict[str, Any]:
    require_model(spec)
    if not load_judge(spec.name).asks_model:
        return {"name": spec.name}
    keys = ("name", "base_url", "model", "revision", "max_tokens", "format")
    identity = {key: getattr(spec, key) for key in keys} | {"prompt_sha256": prompt_template(spec.name).sha256}
    if spec.base_url is None:
        identity["revision"] = server_for(spec).identity["revision"]
    return identity
