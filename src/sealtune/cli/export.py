"""``sealtune export`` on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sealtune.cli.arguments import load_config
from sealtune.cli.errors import one_line_errors
from sealtune.cli.output import print_line
from sealtune.core.errors import UserError
from sealtune.pipeline.export import names

if TYPE_CHECKING:
    from sealtune.pipeline.run import Run

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that has selected.")]
To = Annotated[str, typer.Option("--to", help=f"The tool: {', '.join(names())}.", show_default=False)]
Out = Annotated[Path | None, typer.Option("--out", help="The folder to write; default: RUN/export/TOOL.")]
Weights = Annotated[bool, typer.Option("--weights", help="Give each row the weight of the ranking.")]
Push = Annotated[str | None, typer.Option("--push", metavar="REPO", help="With --to hf: the repository on the hub.")]
Yes = Annotated[bool, typer.Option("--yes", help="Really push; without it, --push says what would be uploaded.")]


def export(
    run_folder: RunFolder,
    to: To,
    out: Out = None,
    weights: Weights = False,
    push: Push = None,
    yes: Yes = False,
) -> None:
    """Write the rows kept, and the settings of the tuning, for another trainer or the hub."""
    with one_line_errors():
        if push is None and yes:
            raise UserError("--yes: belongs to --push REPO")
        if push is not None and to != "hf":
            raise UserError("--push: only with --to hf")
        run_config = load_config([], None, out=str(run_folder))
        from sealtune.pipeline.exporter import export as write
        from sealtune.pipeline.run import Run

        run = Run(run_config)
        exported = write(run, to, out, weights=weights)
        for note in exported.notes:
            print_line(f"note: {note}")
        print_line(f"start it in {exported.folder}: {exported.start}" if exported.start else exported.folder)
        if push is not None:
            _push(run, exported.folder, push, really=yes)


def _push(run: Run, rows: Path, repo: str, *, really: bool) -> None:
    from sealtune.pipeline import hub

    uploads = hub.plan(run, rows, repo)
    for note in hub.notes(run):
        print_line(f"note: {note}")
    for line in (line for upload in uploads for line in upload.lines()):
        print_line(line)
    if not really:
        print_line("nothing was uploaded; add --yes to upload it (new repositories are private)")
        return
    for address in hub.push(uploads):
        print_line(address)
