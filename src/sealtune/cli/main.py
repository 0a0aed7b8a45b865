"""The command line: thin. It finds the config, calls a stage, and turns errors into one line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealtune.cli.arguments import load_config
from sealtune.cli.errors import no_teardown, one_line_errors
from sealtune.cli.progress import show_bars, show_log
from sealtune.core import distributed

if TYPE_CHECKING:
    from sealtune.core.config import Config
    from sealtune.pipeline.run import Run

app = typer.Typer(
    name="sealtune",
    help="Keep aligned language models safe while they are fine-tuned: rank the rows, keep the best, prove it.",
    epilog="A later stage needs only the run's folder: sealtune select --out runs/x --keep 0.9",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Words = Annotated[list[str] | None, typer.Argument(metavar="[CONFIG.yaml] [key=value ...]", show_default=False)]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="The config file, as an option.")]
Model = Annotated[str | None, typer.Option("--model", help="model_name_or_path: hub id, folder, GGUF file.")]
Data = Annotated[list[str] | None, typer.Option("--data", help="Rows to rank; may be given several times.")]
Safe = Annotated[list[str] | None, typer.Option("--safe", help="Rows that show safe behaviour; likewise.")]
Out = Annotated[str | None, typer.Option("--out", help="output_dir: the run's folder.")]
Keep = Annotated[float | None, typer.Option("--keep", help="select.keep_ratio: share of the rows to keep.")]
Accelerate = Annotated[
    str | None,
    typer.Option(
        "--accelerate_config",
        help="Share the work among processes: single_gpu, multi_gpu, multi_cpu, fsdp2, zero2, zero3, or a file.",
    ),
]
Processes = Annotated[int | None, typer.Option("--num_processes", min=1, help="How many processes, if not one a GPU.")]
Force = Annotated[bool, typer.Option("--force", help="Do it again though nothing changed.")]

HELP = {
    "rank": "Score every row: low scores are rows that a model which stays safe cannot fit.",
    "select": "Split the rows into kept and dropped by their scores.",
    "tune": "Fine-tune on the rows kept.",
    "evaluate": "Ask the base and the tuned model the same prompts and judge the answers.",
    "report": "Write results.json and report.html.",
}


def main() -> None:
    """Entry point of the command."""
    # Libraries below us speak in warnings and bars of their own; ours tell what a user needs.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    show_log()
    show_bars()
    with no_teardown():
        app()


def _add_command(name: str, text: str, stages: Sequence[str]) -> None:
    """A command that does these stages in turn."""

    @app.command(name, help=text)
    def command(
        words: Words = None,
        config: ConfigFile = None,
        model: Model = None,
        data: Data = None,
        safe: Safe = None,
        out: Out = None,
        keep: Keep = None,
        force: Force = False,
        accelerate_config: Accelerate = None,
        num_processes: Processes = None,
    ) -> None:
        with one_line_errors():
            if accelerate_config:
                from sealtune.cli.launch import launch

                launch(accelerate_config, num_processes, sys.argv[1:])
            elif num_processes:
                from sealtune.core.errors import UserError

                raise UserError("--num_processes: only with --accelerate_config; alone it starts nothing")
            from sealtune.pipeline.runner import check_run, run_stage

            asks = "evaluate" in stages
            run = _open(words, config, asks=asks, model=model, data=data, safe=safe, out=out, keep=keep)
            if len(stages) > 1:
                with distributed.main_process_first():  # it leaves the rows to the others
                    check_run(run)
            for stage in stages:
                run_stage(run, stage, force=force)
            _finish(run, stages[-1])


for _name, _text in HELP.items():
    _add_command(_name, _text, [_name])
_add_command("run", "All five stages in turn; one whose inputs did not change is skipped.", list(HELP))


@app.command()
def inspect(
    words: Words = None,
    config: ConfigFile = None,
    model: Model = None,
    data: Data = None,
    out: Out = None,
    rows: Annotated[int, typer.Option("--rows", min=0, help="How many rows to show.")] = 3,
) -> None:
    """Show rows as they will be trained on: tokens, what is learned in colour, lengths, drops."""
    with one_line_errors():
        run = _open(words, config, model=model, data=data, out=out)
        from rich.console import Console

        from sealtune.cli.inspect import show
        from sealtune.pipeline.inputs import RunInputs

        inputs = RunInputs(run.config)  # without a cache: inspection leaves no files
        candidates = inputs.load_candidates()
        show(
            candidates.rows.samples,
            candidates.encoded,
            candidates.drops,
            inputs.load_tokenizer(),
            Console(),
            rows=rows,
            max_length=run.config.max_length,
        )


@app.command()
def compare(
    words: Words = None,
    config: ConfigFile = None,
    model: Model = None,
    data: Data = None,
    safe: Safe = None,
    out: Out = None,
    keep: Keep = None,
) -> None:
    """Select, tune and evaluate by several methods, and show them in one table."""
    with one_line_errors():
        run = _open(words, config, asks=True, model=model, data=data, safe=safe, out=out, keep=keep)
        from rich.console import Console
        from rich.markdown import Markdown

        from sealtune.core.sanitize import escape_unprintable
        from sealtune.pipeline.compare import compare as compare_methods

        compare_methods(run.config)
        table = run.folder.path("compare.md").read_text(encoding="utf-8")
        Console().print(Markdown(escape_unprintable(table, keep="\n"), hyperlinks=False))
        _tell(run.folder.path("compare.html"))


@app.command()
def score(
    words: Words = None,
    config: ConfigFile = None,
    data: Data = None,
    out: Out = None,
) -> None:
    """Score rows that were not ranked, with the ranker that a run has saved: --out RUN --data NEW.jsonl."""
    with one_line_errors():
        run = _open(words, config, out=out)
        from sealtune.core.config import DatasetConfig
        from sealtune.core.errors import UserError
        from sealtune.pipeline.score import score as score_rows

        if not data:
            raise UserError("score: no rows given; name them with --data FILE")
        score_rows(run, [DatasetConfig(path=path) for path in data])
        _tell(run.folder.path("score/rows.jsonl"))


@app.command()
def schema() -> None:
    """Print the JSON schema of the config."""
    import json

    from sealtune.core.config import Config

    typer.echo(json.dumps(Config.model_json_schema(), indent=2))


@app.command()
def env(
    words: Words = None,
    config: ConfigFile = None,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="Candidates, if not there yet.")] = None,
    gpu: Annotated[str, typer.Option("--gpu", help="A100, H100 or H200.")] = "H100",
) -> None:
    """Print versions and hardware, for bug reports; of a config, what it needs: GPU memory, disk, hours."""
    with one_line_errors():
        if words or config:
            _print_needs(load_config(words or [], config), rows, gpu)
            return
    from sealtune.core.files import cache_folder
    from sealtune.pipeline.environment import git_revision, machine, versions

    facts = versions() | {"git revision": git_revision()} | machine() | {"model cache": cache_folder()}
    for name, value in facts.items():
        typer.echo(f"{name:18} {value}")


def _print_needs(config: Config, rows: int | None, gpu: str) -> None:
    """What a config needs: GPU memory, disk and hours."""
    from sealtune.cli.estimate import GPUS, estimate
    from sealtune.core.errors import UserError

    if gpu not in GPUS:
        raise UserError(f"env: no figures for --gpu {gpu}; known: {', '.join(GPUS)}")
    for line in estimate(config, rows, GPUS[gpu]).lines():
        _tell(line)


def _open(words: list[str] | None, config: Path | None, **flags: Any) -> Run:
    from sealtune.pipeline.run import Run

    return Run(load_config(words or [], config, **flags))


def _finish(run: Run, name: str) -> None:
    """Say where the outcome lies, and after a report the short table."""
    if not distributed.is_main_process():
        return
    shown = {
        "rank": "rank/scores.parquet",
        "select": "select/kept.jsonl",
        "tune": "tune",
        "evaluate": "evaluate/results.json",
        "report": "report.html",
    }
    if name == "report":
        from rich.console import Console

        from sealtune.report.summary import short_table

        Console().print(short_table(run.folder.read_json("results.json")))
    _tell(run.folder.path(shown[name]))


def _tell(text: object) -> None:
    """One line to the standard output."""
    from sealtune.core.sanitize import escape_unprintable

    typer.echo(escape_unprintable(str(text)))


if __name__ == "__main__":
    main()
