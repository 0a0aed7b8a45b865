"""One function a stage: read what it needs, do it, write what it made. ``Run.stage`` enters it into the manifest."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sealtune import __version__, processes
from sealtune.checkpoints import Checkpoints
from sealtune.config import Config
from sealtune.console import say, track
from sealtune.environment import git_revision, machine, measured, versions
from sealtune.material import Material, data_fingerprint, path_fingerprint
from sealtune.models import fingerprint
from sealtune.records import Drop, Encoded, Response, Selection, StoppedError, UserError
from sealtune.store import RunFolder
from sealtune.token_cache import TokenCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODEL_KEYS = ("model_name_or_path", "model_revision", "attn_implementation", "load_in_4bit", "trust_remote_code")
ROW_KEYS = ("model", "ranked_by", "datasets", "max_length", "too_long")
"""What decides the tokens of a row."""


class Outcome(NamedTuple):
    """Files that a stage wrote, by their names in the run folder, and facts for the manifest."""

    files: Iterable[str]
    facts: Mapping[str, Any]


class Stage(NamedTuple):
    """``inputs`` are all the things that the outcome depends on; ``work`` makes it; ``shared``: by all processes."""

    inputs: Callable[[Run], dict[str, Any]]
    work: Callable[[Run, Mapping[str, Any]], Outcome]
    shared: bool = False


class Run:
    """A configuration, its material and its folder."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.folder = RunFolder(config.output_dir, keeps=processes.is_first())
        self.stop_requested: int | None = None
        self.material = Material(config, TokenCache(self.folder))

    def stage(self, name: str, *, force: bool = False) -> None:
        """Do one stage, unless it was finished from the same inputs and its files are as it left them."""
        stage = STAGES[name]
        if stage.shared:
            self._stage(name, stage, force=force)
        elif processes.is_first():
            with processes.alone():
                self._stage(name, stage, force=force)
        processes.wait()  # the next stage reads what this one wrote

    def _stage(self, name: str, stage: Stage, *, force: bool) -> None:
        self.folder.prepare()
        inputs = stage.inputs(self)
        if processes.agreed(not force and self.folder.is_done(name, inputs)):
            say(f"{name}: finished before from the same inputs; skipped")
            return
        about = self._about()
        with measured() as cost:
            outcome = stage.work(self, inputs)
        self.folder.finish_stage(name, inputs, outcome.files, cost | dict(outcome.facts), about)
        Checkpoints(self.folder, name).remove()
        say(f"{name}: finished in {cost['seconds']:.0f} s")
        if self.stop_requested:  # it came when the stage was as good as done
            raise StoppedError(f"stopped after {name}, which is finished; start again to go on", self.stop_requested)

    def adopt(self, name: str, lender: RunFolder) -> None:
        """Take a stage over from another run's folder, if it was finished there from the same inputs."""
        self.folder.prepare()
        if self.folder.adopt(name, STAGES[name].inputs(self), lender, self._about()):
            say(f"{name}: the same in {lender.root}; taken from there")

    def _about(self) -> dict[str, Any]:
        return {
            "sealtune": __version__,
            "git_revision": git_revision(),
            "model": self.config.model_name_or_path,
            "seed": self.config.seed,
            "config": self.config.model_dump(mode="json"),
            "versions": versions(),
            "machine": machine(),
        }

    def check(self) -> None:
        """Read all that later stages will need, so that a wrong path is told before hours of ranking, not after."""
        from sealtune import rankers
        from sealtune.evaluation import panel, utility

        rankers.check(self.config.rank.method)
        if self.config.select.keep_ratio == "auto" and self.config.select.threshold is None:
            rankers.check_estimates(self.config.rank.method)
        panel.check(self.config.evaluate)
        utility.check(self.config.evaluate)
        _ = self.material.prompts
        self.material.labels()
        _ = self.material.mixed, self.config.evaluate.held_out_datasets and self.material.held_out

    def require_same_rows(self, stage: str) -> None:
        """Raise UserError where the rows are no longer those that were ranked, or would make other tokens."""
        self.folder.outputs_of("rank")
        ranked = self.folder.manifest()["stages"]["rank"]["inputs"]
        now = rank_inputs(self)
        differing = [key for key in ROW_KEYS if ranked.get(key) != now[key]]
        if differing:
            raise UserError(
                f"{stage}: {', '.join(differing)} changed since the rows were ranked; rank and select again"
            )

    def settings(self, *keys: str) -> dict[str, Any]:
        """Part of the config as plain data."""
        return self.config.model_dump(mode="json", include=set(keys))

    def model_settings(self) -> dict[str, Any]:
        """What decides how the model computes; ``auto`` means another dtype on another machine."""
        from sealtune.models import compute_dtype

        return self.settings(*MODEL_KEYS) | {"dtype": str(compute_dtype(self.config))}

    def load_model(self, config: Config | None = None, *, full: bool = False) -> PreTrainedModel:
        """The untouched model; with ``config``, the one that it names."""
        from sealtune.models import load_model

        config = config or self.config
        say(f"loading {config.model_name_or_path}")
        return load_model(config, full=full)


# -- rank --------------------------------------------------------------------------------------------------------------


def rank_inputs(run: Run) -> dict[str, Any]:
    """``label_column`` is not among them: no ranker sees it."""
    settings = run.config.rank.model_dump(mode="json", exclude={"save_steps"})
    chosen = run.settings("seed", "max_length", "too_long") | run.model_settings()
    ranked_by = {"ranked_by": fingerprint(run.config.ranking)}
    return chosen | run.material.fingerprints | ranked_by | {"rank": settings}


def rank(run: Run, inputs: Mapping[str, Any]) -> Outcome:
    """Score every candidate."""
    from sealtune import rankers
    from sealtune.recorder import Recorder

    settings = run.config.rank
    rankers.check(settings.method)
    material = run.material.for_ranking
    with processes.first_goes_first():  # it leaves the tokens to the others
        candidates, drops = run.material.ranked, run.material.candidates[1]
        safe, safe_drops = material.safe
    say(f"candidates: {_count(candidates, drops)}")
    say(f"safe set: {_count(safe, safe_drops)}")
    with track("rank") as advance:
        recorder = Recorder(run.folder, inputs, settings.save_steps, advance)
        resume = recorder.resume(run.config.resume_from_checkpoint)
        with recorder.stopping():
            job = rankers.Job(
                candidates,
                safe,
                material.config,
                lambda full: run.load_model(material.config, full=full),
                recorder.on_step,
                resume.state if resume else None,
                material.decode,
            )
            scores = rankers.rank(job)
    if scores.faults:
        say(f"rank: the loss of {len(scores.faults)} rows is not finite; ranked last: {', '.join(scores.faults[:5])}")
    run.stop_requested = processes.agreed(recorder.stop_requested or 0) or None
    run.folder.write_scores(scores, run.material.rows.positions(scores.ids))
    run.folder.write_selector(scores, settings.method, settings.weighting)
    run.folder.write_jsonl("rank/drops.jsonl", _drop_records(candidates=drops, safe=safe_drops))
    run.folder.write_jsonl("rank/log.jsonl", recorder.records)
    names = ("scores.parquet", "selector.safetensors", "selector_config.json", "drops.jsonl", "log.jsonl")
    tokens = sum(record["tokens"] for record in recorder.records)
    facts = {"rows": len(scores), "tokens": tokens, "not_finite": list(scores.faults)}
    return Outcome([f"rank/{name}" for name in names], facts)


# -- select ------------------------------------------------------------------------------------------------------------


def select_inputs(run: Run) -> dict[str, Any]:
    """The scores, the rows and how many to keep."""
    mix = [data_fingerprint(c) for c in run.config.select.mix]
    fingerprints = {"datasets": run.material.fingerprints["datasets"], "mix": mix}
    return run.settings("select") | fingerprints | {"scores": run.folder.outputs_of("rank")["rank/scores.parquet"]}


def select(run: Run, inputs: Mapping[str, Any]) -> Outcome:
    """Split the rows into kept and dropped, each in its own schema and in input order."""
    from sealtune.selection import require_same_ids
    from sealtune.selection import select as choose

    encoded, drops = run.material.candidates
    scores = run.folder.read_scores()
    require_same_ids(scores, encoded.ids, str(run.folder.path("rank/scores.parquet")))
    selection = choose(scores, run.config.select)
    samples = run.material.rows.samples
    kept = samples.take(np.flatnonzero(samples.ids.among(selection.kept)))
    run.folder.write_jsonl("select/kept.jsonl", (sample.row for sample in kept))
    run.folder.write_jsonl("select/dropped.jsonl", _dropped_rows(run, selection, drops))
    run.folder.write_texts("select/kept_ids.json", selection.kept)
    run.folder.write_jsonl("select/mixed.jsonl", (s.row for s in run.material.mixed.samples))
    mixed = len(run.material.mixed.samples)
    say(
        f"select: {len(kept):,} rows kept, {len(selection.rejected):,} dropped by rank, {len(drops):,} unusable, "
        f"{mixed:,} mixed in"
    )
    if found := selection.contamination:
        seen = "" if found.found else "no separate group seen, "
        say(f"select: estimated share of unsafe rows {found.share:.1%} ({seen}{found.low:.0%} to {found.high:.0%})")
    names = ("kept.jsonl", "dropped.jsonl", "kept_ids.json", "mixed.jsonl")
    return Outcome([f"select/{name}" for name in names], {"rows": len(kept), "threshold": selection.threshold})


def _dropped_rows(run: Run, selection: Selection, drops: list[Drop]) -> Iterator[dict[str, Any]]:
    """Rows rejected by rank and rows that could not be used, in input order; our words under one key."""
    samples, rejected = run.material.rows.samples, selection.rejected
    places = samples.ids.find(row.id for row in rejected)
    order = np.argsort(places)
    ranked = zip(samples.take(places[order]), (dataclasses.asdict(rejected[i]) for i in order), strict=True)
    unusable = sorted(drops, key=lambda drop: drop.position)
    rows = heapq.merge(
        ((sample.position, sample.row, about) for sample, about in ranked),
        ((drop.position, drop.row, _about(drop)) for drop in unusable),
        key=itemgetter(0),
    )
    return ({**row, "sealtune": about} for _, row, about in rows)


def _about(drop: Drop) -> dict[str, Any]:
    return {"id": drop.id, "rank": None, "score": None, "reason": f"{drop.reason}: {drop.detail}"}


# -- tune --------------------------------------------------------------------------------------------------------------


def tune_inputs(run: Run) -> dict[str, Any]:
    """The rows kept, the model and the settings of the trainer."""
    tuning = {"tune": run.config.tune.model_dump(mode="json", exclude={"save_steps"})}
    settings = run.settings("seed", "max_length", "too_long") | tuning | run.model_settings()
    mix = {"mix": [data_fingerprint(c) for c in run.config.select.mix]}
    return settings | run.material.fingerprints | mix | {"rows": run.folder.outputs_of("select")}


def tune(run: Run, inputs: Mapping[str, Any]) -> Outcome:
    """Fine-tune on the rows kept."""
    from sealtune.card import model_card
    from sealtune.finetune import save, train
    from sealtune.recorder import Safeguard

    run.require_same_rows("tune")
    rows = _training_rows(run)
    settings = run.config.tune
    # The trainer counts its steps in batches of all processes: as many must go on with them.
    safeguard = Safeguard("tune", run.folder, {**inputs, "processes": processes.count()}, settings.save_steps)
    resume = safeguard.resume(run.config.resume_from_checkpoint)
    model = run.load_model(full=not settings.use_peft)
    with track("tune") as advance, safeguard.stopping():
        tuned, log = train(model, run.material.tokenizer, rows, run.config, advance, safeguard=safeguard, resume=resume)
    run.stop_requested = processes.agreed(safeguard.stop_requested or 0) or None
    if not processes.is_first():  # the weights are whole in the first
        return Outcome([], {})
    with run.folder.whole_folder("tune") as scratch:
        save(tuned, run.material.tokenizer, run.config, scratch)
        (scratch / "README.md").write_text(model_card(run.config, run.folder.manifest(), len(rows)), encoding="utf-8")
    run.folder.write_jsonl("tune/log.jsonl", log)
    files = sorted(p for p in run.folder.path("tune").rglob("*") if p.is_file())
    tokens = int(log[-1].get("num_input_tokens_seen", 0)) if log else 0
    return Outcome([str(p.relative_to(run.folder.root)) for p in files], {"rows": len(rows), "tokens": tokens})


def _training_rows(run: Run) -> Encoded:
    """The rows kept, and those mixed in, as the very tokens that ranking saw."""
    encoded, _ = run.material.candidates
    kept = run.folder.kept_ids()
    rows = encoded.among(kept)
    if not run.config.select.mix:
        return rows
    mixed, _ = run.material.encode(run.material.mixed)
    return rows.extend(mixed)


# -- evaluate ----------------------------------------------------------------------------------------------------------


def evaluate_inputs(run: Run) -> dict[str, Any]:
    """The tuned model, the prompts, the rows whose loss is measured, and the judges."""
    from sealtune.evaluation.panel import identities

    prompts = [{**c.model_dump(), "sha256": c.path and path_fingerprint(c.path)} for c in run.config.evaluate.prompts]
    held_out = [data_fingerprint(c) for c in run.config.evaluate.held_out_datasets]
    files = run.material.fingerprints | {"prompts": prompts, "held_out": held_out}
    files |= {"tasks": [path_fingerprint(task) for task in run.config.evaluate.tasks]}
    settings = run.settings("seed", "max_length", "too_long", "evaluate") | run.model_settings()
    settings["evaluate"]["judges"] = identities(run.config.evaluate)
    return settings | files | {"tuned": run.folder.outputs_of("tune")}


def evaluate(run: Run, inputs: Mapping[str, Any]) -> Outcome:
    """Ask the base and the tuned model the same prompts, judge the answers, and measure losses."""
    from sealtune.evaluation import served, utility
    from sealtune.evaluation.metrics import summarise
    from sealtune.evaluation.panel import by_rule, check, faults, judge_all, tabulate
    from sealtune.evaluation.prompts import notices
    from sealtune.examine import answer, losses
    from sealtune.finetune import is_adapter, load_tuned
    from sealtune.ledger import Ledger

    settings = run.config.evaluate
    check(settings)
    utility.check(settings)
    prompts, unasked = run.material.prompts
    for line in notices(unasked):
        say(line)
    for name in settings.served:
        served.server_of(name, settings)
    sets = {"safe": run.material.safe[0]}
    if settings.held_out_datasets:
        sets["held_out"] = run.material.held_out[0]
    responses: list[Response] = []
    table: list[dict[str, Any]] = []
    folder = run.folder.path("tune")
    names = ("base", "tuned") if settings.base else ("tuned",)
    ledger = Ledger(run.folder.path("evaluate/judge_cache.jsonl"))
    for name in names:
        if name in settings.served:
            with track(f"{name}: answers of {settings.served[name].base_url}") as advance:
                responses += served.answer(name, prompts, run.material.tokenizer, settings, ledger, advance)
    here = [name for name in names if name not in settings.served]
    model = run.load_model() if "base" in here or ("tuned" in here and is_adapter(folder)) else None
    for name in here:
        if name == "tuned":
            model = load_tuned(model, folder, run.config)
        assert model is not None
        with track(f"{name}: answers") as advance:
            responses += answer(model, name, prompts, run.material.tokenizer, settings, advance)
        for set_name, encoded in sets.items():
            with track(f"{name}: loss on {set_name}") as advance:
                table.append(losses(model, name, set_name, encoded, settings.batch_size, advance))
        if settings.tasks:
            say(f"{name}: tasks {', '.join(settings.tasks)}")
            table += utility.measure(model, name, run.material.tokenizer, settings)
    responses.sort(key=lambda response: names.index(response.model))
    del model  # a judge may need its memory
    verdicts = judge_all(responses, settings, ledger, track)
    for line in faults(verdicts):
        say(line)
    table = summarise(by_rule(verdicts)) + tabulate(verdicts) + table
    run.folder.write_jsonl("evaluate/responses.jsonl", map(dataclasses.asdict, responses))
    run.folder.write_jsonl("evaluate/verdicts.jsonl", map(dataclasses.asdict, verdicts))
    run.folder.write_jsonl("evaluate/drops.jsonl", _drop_records(prompts=unasked))
    run.folder.write_json("evaluate/results.json", table)
    files = ("responses.jsonl", "verdicts.jsonl", "drops.jsonl", "results.json")
    return Outcome([f"evaluate/{name}" for name in files], {"tokens": sum(r.tokens for r in responses)})


# -- report ------------------------------------------------------------------------------------------------------------


def report_inputs(run: Run) -> dict[str, Any]:
    """Everything that the other stages made."""
    stages = run.folder.manifest().get("stages", {})
    done = {name: entry["outputs"] for name, entry in stages.items() if name != "report"}
    for name in done.keys() & {"rank", "select", "evaluate"}:  # what is shown must be what they wrote
        run.folder.outputs_of(name)
    return run.settings("report", "label_column") | {"datasets": run.material.fingerprints["datasets"], "outputs": done}


def report(run: Run, inputs: Mapping[str, Any]) -> Outcome:
    """Write results.json and report.html from what is there."""
    from sealtune.report.page import render
    from sealtune.results import collect, read_drops, view
    from sealtune.selection import require_same_ids

    scores = run.folder.read_scores()
    ids = run.material.rows.samples.ids
    usable = ids.take(np.flatnonzero(~ids.among(drop.id for drop in read_drops(run))))
    require_same_ids(scores, usable, str(run.folder.path("rank/scores.parquet")))
    results = collect(run)
    run.folder.write_json("results.json", results)
    run.folder.write_text("report.html", render(view(run, results)))
    return Outcome(["results.json", "report.html"], {})


STAGES = {
    "rank": Stage(rank_inputs, rank, shared=True),
    "select": Stage(select_inputs, select),
    "tune": Stage(tune_inputs, tune, shared=True),
    "evaluate": Stage(evaluate_inputs, evaluate),
    "report": Stage(report_inputs, report),
}


def _count(encoded: Encoded, drops: list[Drop]) -> str:
    unusable = f", {len(drops):,} unusable" if drops else ""
    return f"{len(encoded):,} rows, {int(encoded.lengths.sum()):,} tokens{unusable}"


def _drop_records(**sets: list[Drop]) -> Iterator[dict[str, Any]]:
    for name, drops in sets.items():
        for drop in drops:
            yield {"set": name, "id": drop.id, "source": drop.source, "reason": drop.reason, "detail": drop.detail}
