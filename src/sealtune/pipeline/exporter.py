"""``sealtune export``: the rows that a run kept, and its settings, in the form of another tool, in one folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sealtune.core.errors import UserError
from sealtune.core.files import Folder
from sealtune.data.reasons import plural
from sealtune.models.load import resolve_source
from sealtune.models.model_config import load_model_config
from sealtune.models.skeleton import skeleton
from sealtune.models.target_modules import Targets, target_modules
from sealtune.pipeline.export import load_target
from sealtune.pipeline.export_job import Job, Target, Written
from sealtune.pipeline.kept_rows import KeptRows
from sealtune.pipeline.run import Run

MARKER = "sealtune_export.json"
"""Says that sealtune has written a folder, which another export may replace."""
README = """# {examples} for {title}

{kept} that sealtune kept of {ranked:,}{added}, with the settings of the run's tuning. Start it in this folder:

    {start}

What is not carried, or done otherwise by {title}:

{notes}
"""


class Exported(NamedTuple):
    """A finished export: its folder, how to start the tool there, and what is not carried."""

    folder: Path
    start: str
    notes: Sequence[str]


def export(run: Run, to: str, out: Path | None = None, *, weights: bool = False) -> Exported:
    """Write the folder of an export, whole or not at all.

    Args:
        run: A run that has selected.
        to: The name of the target.
        out: The folder; None for ``export/<to>`` in the run's.
        weights: Whether the rows have the weights of the ranking; they do if ``tune.use_weights`` is set.

    Raises:
        UserError: There is no such target, the run has not selected, its rows were changed since, or the folder has
            other files.
    """
    target = load_target(to)
    out = out or run.folder.path(f"export/{to}")
    _require_replaceable(out)
    job = _job(run, weighted=weights or run.config.tune.use_weights)
    with Folder(out.absolute().parent).atomic_folder(out.name) as scratch:
        folder = Folder(scratch)
        written = target.write(job, folder)
        notes = [*_general_notes(job, target), *written.notes]
        folder.write_text("README.md", target.card(job, notes) if target.card else _readme(job, target, written, notes))
        inputs = run.folder.outputs_of("select")
        folder.write_json(MARKER, {"target": to, "examples": written.examples, "notes": notes, "select": inputs})
    return Exported(out, written.start, notes)


def _require_replaceable(out: Path) -> None:
    """Raise UserError if the folder has files that no export has written."""
    if out.is_dir() and not (out / MARKER).is_file() and any(out.iterdir()):
        raise UserError(f"{out}: has files that no export has written; choose another folder with --out")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; choose another folder with --out")


def _job(run: Run, *, weighted: bool) -> Job:
    rows = KeptRows(run, weighted=weighted)
    stages = run.folder.manifest().stages
    kept, added = map(len, rows.parts)
    if "report" in stages:
        run.folder.outputs_of("report")
    return Job(
        config=run.config,
        rows=rows,
        tokenizer=run.inputs.load_tokenizer(),
        model=_model(run),
        layers=_layers(run),
        max_length=run.inputs.max_length(),
        facts={"ranked": int(stages["rank"].rows or 0), "kept": kept, "added": added},
        results=run.folder.read_json("results.json") if "report" in stages else None,
    )


def _model(run: Run) -> str:
    """The model by the name under which other tools find it: a folder by its whole path."""
    source = resolve_source(run.config)
    return str(Path(source).absolute()) if Path(source).exists() else source


def _layers(run: Run) -> Targets:
    """The layers that the tuning adapts, which depend on the model's family; those of the settings if it is unknown."""
    tune = run.config.tune
    model = skeleton(load_model_config(run.config), trust_remote_code=run.config.trust_remote_code)
    return tune.lora_target_modules if model is None or not tune.use_peft else target_modules(model, tune)


def _general_notes(job: Job, target: Target) -> list[str]:
    notes = []
    if job.rows.weights is not None and not target.has_weights:
        notes.append(f"{target.title} has no weights of rows: all count the same")
    if target.trains and job.config.tune.guard != "off" and job.config.safe_datasets:
        notes.append(
            "the safe set is not in force there (tune.guard): in TRL, call sealtune.guard(trainer, SAFE); elsewhere, "
            "run `sealtune repair` on the tuned adapter"
        )
    return notes


def _readme(job: Job, target: Target, written: Written, notes: Sequence[str]) -> str:
    added = job.facts["added"]
    return README.format(
        examples=plural(written.examples, "row"),
        title=target.title,
        kept=plural(job.facts["kept"], "row"),
        ranked=job.facts["ranked"],
        added=f", and {plural(added, 'row')} of select.mix_datasets" if added else "",
        start=written.start,
        notes="\n".join(f"- {note}" for note in notes) or "- nothing",
    )
