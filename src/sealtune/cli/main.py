"""The commands: each reads the config, runs its stages, and turns errors into one line and an exit code.

Torch and transformers take seconds to import, so the commands import what they need themselves.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sealtune.cli import options
from sealtune.cli.arguments import decision_settings, load_config
from sealtune.cli.errors import exit_without_teardown, one_line_errors
from sealtune.cli.export import export
from sealtune.cli.output import print_json, print_line
from sealtune.cli.progress import show_bars, show_log, working
from sealtune.cli.show import show
from sealtune.core import distributed
from sealtune.core.errors import UserError
from sealtune.core.sanitize import escape_unprintable

if TYPE_CHECKING:
    from sealtune.core.config import Config
    from sealtune.pipeline.run import Run

app = typer.Typer(
    name="sealtune",
    cls=options.Commands,
    help="Keep aligned language models safe while they are fine-tuned: rank the rows, keep the best, prove it.",
    epilog="Later stages need only the folder of the run: sealtune select --out runs/x --keep 0.9",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

STAGES = {
    "rank": "Score every row; the model cannot fit low-scoring rows and stay safe.",
    "select": "Split the rows by score into kept and dropped rows.",
    "tune": "Fine-tune on the kept rows.",
    "evaluate": "Answer the same prompts with the base and the tuned model, and judge the answers.",
    "report": "Write results.json and report.html.",
}
"""The stages in order, with their help texts."""
OUTPUTS = {
    "rank": "rank/scores.parquet",
    "select": "select/kept.jsonl",
    "tune": "tune",
    "evaluate": "evaluate/results.json",
    "report": "report.html",
}


def main() -> None:
    """Entry point of the command line."""
    _silence_libraries()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal of another encoding must not end a command
        sys.stdout.reconfigure(errors="backslashreplace")
    show_log()
    show_bars()
    with exit_without_teardown():
        app()


def _silence_libraries() -> None:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _add_command(name: str, text: str, stages: Sequence[str]) -> None:
    """Add a command that runs these stages in order."""

    @app.command(name, help=text)
    def command(
        words: options.Words = None,
        config: options.ConfigFile = None,
        model: options.Model = None,
        data: options.Data = None,
        safe: options.Safe = None,
        out: options.Out = None,
        keep: options.Keep = None,
        decisions: options.Decisions = None,
        scores: options.ScoresFile = None,
        force: options.Force = False,
        accelerate_config: options.Accelerate = None,
        num_processes: options.Processes = None,
        quiet: options.Quiet = False,
        as_json: options.AsJson = False,
    ) -> None:
        with one_line_errors():
            _launch(accelerate_config, num_processes)
            with working(quiet=quiet, as_json=as_json):
                flags = {"model": model, "data": data, "safe": safe, "out": out, "keep": keep, "scores": scores}
                words = [*(words or []), *decision_settings(stages, decisions)]
                run = _open(words, config, calls_judges="evaluate" in stages, **flags)
                if scores:
                    _import_scores(run, stages, force=force)
                _run_stages(run, stages, force=force)
            if distributed.is_main_process():
                _print_output(run, stages, quiet=quiet, as_json=as_json)


for _name, _text in STAGES.items():
    _add_command(_name, _text, [_name])
_add_command("run", "Run all five stages; a stage whose inputs did not change is skipped.", list(STAGES))


def _launch(accelerate_config: str | None, num_processes: int | None) -> None:
    if accelerate_config:
        from sealtune.cli.launch import launch

        launch(accelerate_config, num_processes, sys.argv[1:])
    elif num_processes:
        raise UserError("--num_processes: has no effect without --accelerate_config")


def _import_scores(run: Run, stages: Sequence[str], *, force: bool) -> None:
    """Import scores made elsewhere before a selection, which no ranking precedes then."""
    from sealtune.pipeline.runner import run_stage

    if stages[0] not in ("rank", "select"):
        raise UserError(f"{stages[0]}: --scores belongs to rank, select and run")
    if stages[0] == "select":
        run_stage(run, "rank", force=force)


def _run_stages(run: Run, stages: Sequence[str], *, force: bool) -> None:
    from sealtune.pipeline.runner import check_run, run_stage

    if len(stages) > 1:
        with distributed.main_process_first():  # it caches the rows for the others
            check_run(run, force=force)
    for stage in stages:
        run_stage(run, stage, force=force)


def _print_output(run: Run, stages: Sequence[str], *, quiet: bool, as_json: bool) -> None:
    """Print where the last stage's output is, and after a report the table of results; or all of it as JSON."""
    output = run.folder.path(OUTPUTS[stages[-1]])
    if as_json:
        from sealtune.pipeline.results import result

        print_json({"output": output, **result(run.folder, stages)})
        return
    if stages[-1] == "report" and not quiet:
        from rich.console import Console

        from sealtune.report.summary import short_table

        Console().print(short_table(run.folder.read_json("results.json")))
    print_line(output)


app.command()(show)


@app.command()
def inspect(
    words: options.Words = None,
    config: options.ConfigFile = None,
    model: options.Model = None,
    data: options.Data = None,
    out: options.Out = None,
    rows: options.Rows = 3,
) -> None:
    """Show rows as the model is trained on them: text with the loss mask in colour, lengths, dropped rows."""
    with one_line_errors():
        run = _open(words, config, model=model, data=data, out=out)
        from rich.console import Console

        from sealtune.cli.inspect import show as show_rows
        from sealtune.pipeline.inputs import RunInputs

        inputs = RunInputs(run.config)  # without a cache: inspecting writes no files
        candidates = inputs.load_candidates()
        show_rows(
            candidates.rows.samples,
            candidates.encoded,
            candidates.drops,
            inputs.load_tokenizer(),
            Console(),
            rows=rows,
            max_length=inputs.max_length(),
        )


@app.command()
def check(
    words: options.Words = None,
    config: options.ConfigFile = None,
    model: options.Model = None,
    data: options.Data = None,
    safe: options.Safe = None,
    model_answers: options.ModelAnswers = None,
) -> None:
    """Read everything, train nothing: what was understood, and what would be lost. Exit code 2 if anything would be."""
    with one_line_errors():
        run = _open(words, config, calls_judges=True, model=model, data=data, safe=safe)
        from rich.console import Console

        from sealtune.cli.check import show as show_findings
        from sealtune.pipeline.check import check as check_inputs
        from sealtune.pipeline.inputs import RunInputs

        inputs = RunInputs(run.config)  # without a cache: checking writes no files
        found = check_inputs(inputs, model_answers)
        show_findings(found, inputs, Console())
        if found.lost:
            raise typer.Exit(2)


@app.command()
def compare(
    words: options.Words = None,
    config: options.ConfigFile = None,
    model: options.Model = None,
    data: options.Data = None,
    safe: options.Safe = None,
    out: options.Out = None,
    keep: options.Keep = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Select, tune and evaluate with several methods, and compare them in one table."""
    with one_line_errors():
        with working(quiet=quiet, as_json=as_json):
            run = _open(words, config, calls_judges=True, model=model, data=data, safe=safe, out=out, keep=keep)
            from sealtune.pipeline.compare import compare as compare_methods

            found = compare_methods(run.config)
        output = run.folder.path("compare.html")
        if as_json:
            print_json({"output": output, **found})
            return
        if not quiet:
            from rich.console import Console
            from rich.markdown import Markdown

            table = run.folder.path("compare.md").read_text(encoding="utf-8")
            Console().print(Markdown(escape_unprintable(table, keep="\n"), hyperlinks=False))
        print_line(output)


@app.command()
def score(
    words: options.Words = None,
    config: options.ConfigFile = None,
    data: options.Data = None,
    out: options.Out = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Score new rows with the ranker that a run has saved: --out RUN --data NEW.jsonl."""
    with one_line_errors():
        with working(quiet=quiet, as_json=as_json):
            run = _open(words, config, out=out)
            from sealtune.core.config import DatasetConfig
            from sealtune.pipeline.score import score as score_rows

            if not data:
                raise UserError("score: no rows; name them with --data FILE")
            counts = score_rows(run, [DatasetConfig(path=path) for path in data])
        output = run.folder.path("score/rows.jsonl")
        print_json({"output": output, **counts}) if as_json else print_line(output)


@app.command()
def repair(
    adapter: options.Adapter,
    words: options.Words = None,
    config: options.ConfigFile = None,
    model: options.Model = None,
    data: options.Data = None,
    safe: options.Safe = None,
    out: options.Out = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Make an adapter that was tuned anywhere safe again: ADAPTER --model BASE --safe SAFE.jsonl [--data ROWS]."""
    with one_line_errors():
        from sealtune.cli.repair import base_of, to_json
        from sealtune.cli.repair import show as show_repair

        with working(quiet=quiet, as_json=as_json):
            run = _open(words, config, model=model or base_of(adapter, config), data=data, safe=safe, out=out)
            from sealtune.pipeline.repair import ADAPTER
            from sealtune.pipeline.repair import repair as repair_adapter

            done = repair_adapter(adapter, run.config)
        output = run.folder.path(ADAPTER)
        if as_json:
            print_json({"output": output, **to_json(done)})
            return
        if not quiet:
            show_repair(done)
        print_line(output)


app.command(name="export")(export)


@app.command()
def schema() -> None:
    """Print the JSON schema of the config."""
    import json

    from sealtune.core.config import Config

    typer.echo(json.dumps(Config.model_json_schema(), indent=2))


@app.command()
def env(
    words: options.Words = None,
    config: options.ConfigFile = None,
    rows: options.Candidates = None,
    gpu: options.GpuName = "H100",
) -> None:
    """Print versions and hardware for bug reports; with a config, estimate its GPU memory, disk space and hours."""
    with one_line_errors():
        if words or config:
            _print_estimate(load_config(words or [], config), rows, gpu)
            return
    from sealtune.core.files import cache_folder
    from sealtune.pipeline.environment import git_revision, machine, versions

    facts = versions() | {"git revision": git_revision()} | machine() | {"model cache": cache_folder()}
    for name, value in facts.items():
        typer.echo(f"{name:18} {value}")


def _print_estimate(config: Config, rows: int | None, gpu: str) -> None:
    from sealtune.cli.estimate import GPUS, estimate

    if gpu not in GPUS:
        raise UserError(f"env: unknown --gpu {gpu}; known: {', '.join(GPUS)}")
    for line in estimate(config, rows, GPUS[gpu]).lines():
        print_line(line)


def _open(words: list[str] | None, config: Path | None, **flags: Any) -> Run:
    loaded = load_config(words or [], config, **flags)
    from sealtune.pipeline.run import Run

    return Run(loaded)


if __name__ == "__main__":
    main()
