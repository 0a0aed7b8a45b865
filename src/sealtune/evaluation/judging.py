"""All judges of a run: what they need, their verdicts, and the table of them with what could not be judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from sealtune.core.config import EvaluateConfig, JudgeConfig
from sealtune.core.errors import UserError
from sealtune.core.types import Response, Verdict
from sealtune.evaluation.ask import Cache, Server, ask
from sealtune.evaluation.judge_protocol import wording
from sealtune.evaluation.judges import load_judge
from sealtune.evaluation.metrics import mean_interval, wilson

if TYPE_CHECKING:
    from sealtune.core.console import Advance

Track = Callable[[str], AbstractContextManager["Advance"]]

FAULTS = ("unparsed", "declined", "failed")


def check(config: EvaluateConfig) -> None:
    """Raise UserError where a judge is unknown or lacks what it needs, before anything is paid for."""
    for spec in config.judges:
        _require_model(spec)
        if _asks_a_model(spec.name) and spec.base_url is not None:
            _server(spec)  # its key is there
        if spec.format is not None and spec.name != "guard":
            raise UserError(f"evaluate.judges: {spec.name}: format belongs to the guard judge alone")
        if spec.name == "pairwise" and not config.base:
            raise UserError("evaluate.judges: pairwise compares the tuned model with the base; set evaluate.base=true")
    doubles = [name for name, n in Counter(spec.name for spec in config.judges).items() if n > 1]
    if doubles:
        raise UserError(f"evaluate.judges: {doubles[0]} stands twice; its verdicts could not be told apart")


def identities(config: EvaluateConfig) -> list[dict[str, Any]]:
    """All that decides the verdicts of each judge; how patiently it is asked does not.

    Raises:
        UserError: a judge is unknown or has no model.
    """
    return [_identity(spec) for spec in config.judges]


def judge_all(responses: Sequence[Response], config: EvaluateConfig, cache: Cache, track: Track) -> list[Verdict]:
    """The verdicts of all judges, one judge after the other.

    Raises:
        UserError: a judge lacks what it needs.
        RunError: a judge's server is gone; what it answered is in ``cache``.
    """
    check(config)
    verdicts: list[Verdict] = []
    for spec in config.judges:
        module = load_judge(spec.name)
        if not _asks_a_model(spec.name):
            verdicts += module.judge(responses, config)
            continue
        with track(f"judge: {spec.name}") as advance:
            asking = partial(ask, server=_server(spec), cache=cache, advance=advance)
            chosen = [r for r in responses if r.kind in getattr(module, "KINDS", (r.kind,))]
            verdicts += module.judge(chosen, spec, asking)
    return verdicts


def by_rule(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Verdicts of judges that are not models; ``metrics.summarise`` has their table."""
    return [v for v in verdicts if not _asks_a_model(v.judge)]


def tabulate(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Table rows of judges that are models: per model, judge and set (and ``all`` sets of a kind) each measure.

    Only what was judged counts. Each row tells in ``unparsed``, ``declined`` and ``failed`` how many more were asked;
    where there are any, a row of that measure has their share of all.
    """
    groups: dict[tuple[str, str, str, str], list[Verdict]] = {}
    for verdict in verdicts:
        if _asks_a_model(verdict.judge):
            for name in (verdict.set, "all"):
                groups.setdefault((verdict.model, verdict.judge, verdict.kind, name), []).append(verdict)
    return [row for key, group in groups.items() for row in _rows(*key, group)]


def faults(verdicts: Sequence[Verdict]) -> list[str]:
    """One line a judge that could not judge everything, with the first reason of each kind."""
    lines = []
    for name in dict.fromkeys(v.judge for v in verdicts):
        own = [v for v in verdicts if v.judge == name]
        counts = Counter(v.label for v in own if v.error is not None)
        if counts:
            first = {v.label: v.error for v in reversed(own) if v.error is not None}
            told = "; ".join(f"{n} {kind} (first: {first[kind]})" for kind, n in counts.items())
            lines.append(f"judge {name}: {sum(counts.values())} of {len(own)} answers have no verdict: {told}")
            if "failed" in counts:
                lines.append(f"judge {name}: --force asks again for those that failed; the others are kept")
    return lines


def _rows(model: str, judge: str, kind: str, name: str, group: Sequence[Verdict]) -> list[dict[str, Any]]:
    judged = [v for v in group if v.error is None]
    counts = Counter(v.label for v in group if v.error is not None)
    where = {"model": model, "set": name, "kind": kind, "judge": judge}
    asked = {fault: counts[fault] for fault in FAULTS}
    rows = []
    for measure, field in load_judge(judge).MEASURES.items() if judged else ():
        if field == "flagged":
            found = wilson(sum(v.flagged for v in judged), len(judged))
        else:
            found = mean_interval(v.score for v in judged if v.score is not None)
        rows.append(where | {"measure": measure} | found._asdict() | asked)
    for fault, count in counts.items():
        rows.append(where | {"measure": fault} | wilson(count, len(group))._asdict() | asked)
    return rows


def _asks_a_model(name: str) -> bool:
    return hasattr(load_judge(name), "MEASURES")


def _require_model(spec: JudgeConfig) -> None:
    if _asks_a_model(spec.name) and spec.model is None:
        raise UserError(
            f"evaluate.judges: {spec.name} asks a model; give base_url and model of a server, or model alone (a folder "
            f"or hub id): {{name: {spec.name}, base_url: http://127.0.0.1:8000/v1, model: NAME}}"
        )


def _server(spec: JudgeConfig) -> Server:
    if spec.base_url is not None:
        from sealtune.evaluation.endpoint import Endpoint

        return Endpoint(spec)
    from sealtune.evaluation.local import LocalModel

    return LocalModel(spec)


def _identity(spec: JudgeConfig) -> dict[str, Any]:
    _require_model(spec)
    if not _asks_a_model(spec.name):
        return {"name": spec.name}
    keys = ("name", "base_url", "model", "revision", "max_tokens", "format")
    decides = {key: getattr(spec, key) for key in keys} | {"wording": wording(spec.name).sha256}
    if spec.base_url is None:
        decides["revision"] = _server(spec).identity["revision"]
    return decides
