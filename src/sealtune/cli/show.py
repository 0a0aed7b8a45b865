"""``sealtune show RUN``: a ranking in the terminal, in sentences, as a histogram, and row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sealtune.cli import options
from sealtune.cli.arguments import load_config
from sealtune.cli.errors import one_line_errors
from sealtune.cli.output import print_json, print_line
from sealtune.core.errors import UserError
from sealtune.core.sanitize import escape_unprintable, excerpt

if TYPE_CHECKING:
    from rich.console import Console

    from sealtune.pipeline.overview import Overview

MAX_TEXT = 2_000
"""Characters of a row's text that are looked at; a line of the terminal shows fewer."""
STATE_STYLES = {"kept": "green", "dropped": "red"}


def show(
    run: options.RunFolder,
    rows: options.ShownRows = 5,
    as_json: options.AsJson = False,
    serve: options.Serve = False,
    port: options.Port = 0,
) -> None:
    """Show what a run has found: in sentences, as a histogram of the scores, its worst and its least certain rows."""
    with one_line_errors():
        if not (run / "manifest.json").is_file():
            raise UserError(f"{run}: not the folder of a run: no manifest.json; give the output_dir of one")
        from sealtune.pipeline.overview import overview
        from sealtune.pipeline.run import Run

        # No model is loaded, so code that comes with one needs no trust here.
        opened = Run(load_config(["trust_remote_code=false"], out=str(run)))
        if serve:
            _serve(opened, port)
            return
        found = overview(opened, rows)
        if as_json:
            print_json(_to_json(found, opened))
        else:
            from rich.console import Console

            _print(found, opened, Console(highlight=False))


def _serve(run: Any, port: int) -> None:
    """Serve the report until Ctrl-C."""
    from sealtune.cli.serve import FILE, Server

    server = Server(run.folder.root, run.folder.read_scores().ids, port)
    print_line(server.address)
    print_line(f"decisions are saved to {run.folder.root / FILE}; Ctrl-C ends")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print_line("ended")
    finally:
        server.server_close()


def _to_json(found: Overview, run: Any) -> dict[str, Any]:
    """Everything as plain data."""
    from sealtune.cli.histogram import BINS
    from sealtune.pipeline.overview import as_json
    from sealtune.report.sentences import sentences
    from sealtune.report.tables import score_bins

    worst, uncertain = _rows(found)
    tables = {
        "histogram": score_bins(found.view, found.threshold, BINS),
        "worst": [_plain(row) for row in worst],
        "least_certain": [_plain(row) for row in uncertain],
    }
    return as_json(found, run, sentences(found.view), tables)


def _rows(found: Overview) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The worst rows, and the least certain ones; none of the latter without a threshold."""
    from sealtune.report.tables import least_certain_rows, lowest_rows

    uncertain = [] if found.threshold is None else least_certain_rows(found.view, found.threshold)
    return lowest_rows(found.view), uncertain


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    from dataclasses import asdict

    return {**row, "decision": asdict(row["decision"]) if row["decision"] else None}


def _print(found: Overview, run: Any, console: Console) -> None:
    from rich.text import Text

    from sealtune.cli.histogram import BINS, histogram
    from sealtune.report.sentences import sentences
    from sealtune.report.tables import score_bins

    _print_title(f"{run.folder.root}: {run.config.model_name_or_path}, ranked by {run.config.rank.method}", console)
    for sentence in sentences(found.view):
        console.print(Text(escape_unprintable(sentence)))
    for note in found.notes:
        console.print(Text(escape_unprintable(note), style="yellow"))
    _print_title("scores (higher = keep)", console)
    for line in histogram(score_bins(found.view, found.threshold, BINS), found.threshold, console):
        console.print(line, no_wrap=True, overflow="crop")
    worst, uncertain = _rows(found)
    _print_rows("worst rows", worst, None, console)
    _print_rows("least certain rows, the ones to decide about", uncertain, found.threshold, console)


def _print_title(title: str, console: Console) -> None:
    from rich.text import Text

    console.print()
    console.print(Text(escape_unprintable(title), style="bold underline"), no_wrap=True, overflow="ellipsis")


def _print_rows(title: str, rows: Sequence[Mapping[str, Any]], threshold: float | None, console: Console) -> None:
    from rich.text import Text

    if not rows:
        return
    _print_title(title, console)
    for row in rows:
        head = Text(f"{row['score']:.3f}")
        if (error := row["standard_error"]) is not None:
            head.append(f" ± {error:.3f}", style="dim")
        if threshold is not None and error:
            head.append(f"  {abs(row['score'] - threshold) / error:.2f} standard errors away")
        if row["state"]:
            head.append(f"  {row['state']}", style=STATE_STYLES[row["state"]])
        if row["label"]:
            head.append(f"  labelled {row['label']}")
        if made := row["decision"]:
            head.append(f"  {escape_unprintable(made.by)}: {made.decision}", style="magenta")
        head.append(f"  {escape_unprintable(row['id'])}", style="bold")
        console.print(head)
        for text, style in ((row["prompt"], ""), (row["response"], "dim")):
            line = escape_unprintable(excerpt(text[: 2 * MAX_TEXT], MAX_TEXT))
            console.print(Text(f"  {line}", style=style), no_wrap=True, overflow="ellipsis")
