"""The command line: thin. It finds the config, calls a stage, and turns errors into one line and an exit code."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from sealtune import processes

if TYPE_CHECKING:
    from sealtune.config import Config
    from sealtune.pipeline import Run

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

PRECEDENCE = 5.0
"""Seconds that other processes wait before they tell of an error: most often the first tells it, which ends them."""

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
                from sealtune.launch import launch

                launch(accelerate_config, num_processes, sys.argv[1:])
            asks = "evaluate" in stages
            run = _open(words, config, asks=asks, model=model, data=data, safe=safe, out=out, keep=keep)
            if len(stages) > 1:
                with processes.first_goes_first():  # it leaves the rows to the others
                    run.check()
            for stage in stages:
                run.stage(stage, force=force)
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

        from sealtune.inspect import show
        from sealtune.material import Material

        material = Material(run.config)  # without a cache: looking leaves no files
        encoded, drops = material.candidates
        show(
            material.rows.samples,
            encoded,
            drops,
            material.tokenizer,
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

        from sealtune.compare import compare as compare_methods
        from sealtune.telling import printable

        compare_methods(run.config)
        table = run.folder.path("compare.md").read_text(encoding="utf-8")
        Console().print(Markdown(printable(table, keep="\n"), hyperlinks=False))
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
        from sealtune.config import DatasetConfig
        from sealtune.records import UserError
        from sealtune.unseen import score as score_rows

        if not data:
            raise UserError("score: no rows given; name them with --data FILE")
        score_rows(run, [DatasetConfig(path=path) for path in data])
        _tell(run.folder.path("score/rows.jsonl"))


@app.command()
def schema() -> None:
    """Print the JSON schema of the config."""
    import json

    from sealtune.config import Config

    typer.echo(json.dumps(Config.model_json_schema(), indent=2))


@app.command()
def env(
    words: Words = None,
    config: ConfigFile = None,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="Candidates, if not there yet.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Also ranking on each engine and at each size.")] = False,
    gpu: Annotated[str, typer.Option("--gpu", help="A100, H100 or H200.")] = "H100",
    gpus: Annotated[int, typer.Option("--gpus", min=2, help="Of the engines that take several.")] = 8,
) -> None:
    """Print versions and hardware, for bug reports; of a config, what it needs: GPU memory, disk, hours."""
    with one_line_errors():
        if words or config:
            _print_needs(load_config(words or [], config), rows, gpu, gpus if plan else None)
            return
        if plan:
            from sealtune.records import UserError

            raise UserError("env: --plan needs a config: sealtune env --plan config.yaml")
    from sealtune.environment import git_revision, machine, versions
    from sealtune.models import cache_folder

    facts = versions() | {"git revision": git_revision()} | machine() | {"model cache": cache_folder()}
    for name, value in facts.items():
        typer.echo(f"{name:18} {value}")


def _print_needs(config: Config, rows: int | None, gpu: str, gpus: int | None) -> None:
    """What a config needs and, where ``gpus`` are named, the plan of its ranking."""
    from sealtune.needs import GPUS, count, estimate, that_ranks
    from sealtune.plan import Case, lines
    from sealtune.records import UserError

    if gpu not in GPUS:
        raise UserError(f"env: no figures of --gpu {gpu}; there are {', '.join(GPUS)}")
    needs = estimate(config, rows, GPUS[gpu])
    told = needs.lines()
    if gpus:
        case = Case(that_ranks(needs.shape, config), config, count(config, rows)[0], GPUS[gpu], gpus)
        told += ["", *lines(case)]
    for line in told:
        _tell(line)


def _open(words: list[str] | None, config: Path | None, **flags: Any) -> Run:
    from sealtune.pipeline import Run

    return Run(load_config(words or [], config, **flags))


def load_config(words: list[str], file: Path | None = None, *, asks: bool = False, **flags: Any) -> Config:
    """The config of a command line. Without a file or a model it is that of the run folder's manifest.

    Args:
        words: a YAML file and ``key=value``, in any order.
        file: the YAML file, if it is not among the words.
        asks: whether servers will be asked, so that keys may be sent.
        flags: short flags and their values.

    Raises:
        UserError: words that are neither a YAML file nor key=value, or a config that is not valid.
    """
    from sealtune.config import apply_overrides, build_config, read_yaml
    from sealtune.records import UserError
    from sealtune.store import RunFolder

    overrides = [word for word in words if "=" in word] + list(_as_overrides(flags))
    files = [Path(word) for word in words if "=" not in word] + ([file] if file else [])
    if len(files) > 1 or any(f.suffix not in (".yaml", ".yml") for f in files):
        raise UserError(f"{' '.join(map(str, files))}: give one config.yaml, and settings as key=value")
    if files:
        values, where = read_yaml(files[0]), str(files[0])
    else:
        given = apply_overrides({}, overrides)
        folder = RunFolder(str(given.get("output_dir") or ""))
        values = {} if "model_name_or_path" in given else dict(folder.manifest().get("config", {}))
        where = "command line" if not values else str(folder.path("manifest.json"))
        _require_trust(values, given, where, asks=asks)
        if not values and "model_name_or_path" not in given:
            raise UserError("no config: give a config.yaml, or --model --data --safe --out, or --out of an earlier run")
    return build_config(apply_overrides(values, overrides), where)


def _require_trust(values: Mapping[str, Any], given: Mapping[str, Any], where: str, *, asks: bool) -> None:
    """Raise UserError where a run folder, which may come from others, wants what only its user may ask for."""
    from sealtune.records import UserError

    if values.get("trust_remote_code") and "trust_remote_code" not in given:
        raise UserError(
            f"{where}: wants to run code that comes with the model; say trust_remote_code=true where you trust it, "
            "else trust_remote_code=false"
        )
    evaluate = values.get("evaluate")
    if not asks or not isinstance(evaluate, dict) or "evaluate" in given:
        return
    judges, served = evaluate.get("judges"), evaluate.get("served")
    servers = [*(judges if isinstance(judges, list) else []), *(served.values() if isinstance(served, dict) else [])]
    for server in servers:
        if isinstance(server, dict) and server.get("api_key_env"):
            raise UserError(
                f"{where}: wants to send the key in {server['api_key_env']} to {server.get('base_url')}; give the "
                "config.yaml that says so, or the setting of evaluate as key=value, where you trust it"
            )


def _as_overrides(flags: dict[str, Any]) -> Iterator[str]:
    """Short flags as the settings they stand for."""
    import json

    keys = {
        "model": "model_name_or_path",
        "data": "datasets",
        "safe": "safe_datasets",
        "out": "output_dir",
        "keep": "select.keep_ratio",
    }
    for flag, value in flags.items():
        if value not in (None, []):
            yield f"{keys[flag]}={json.dumps(value, ensure_ascii=False)}"
    if flags.get("keep") is not None:  # a threshold of the file would win over it
        yield "select.threshold=null"


def _finish(run: Run, name: str) -> None:
    """Say where the outcome lies, and after a report the short table."""
    if not processes.is_first():
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

        from sealtune.results import short_table

        Console().print(short_table(run.folder.read_json("results.json")))
    _tell(run.folder.path(shown[name]))


def _tell(text: object) -> None:
    """One line to the standard output."""
    from sealtune.telling import printable

    typer.echo(printable(str(text)))


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Expected failures become one clear line; exit code 2 for a user's fault, 143 after SIGTERM, 1 for the rest."""
    from sealtune.records import RunError, UserError

    try:
        yield
    except typer.Exit:
        raise
    except UserError as error:
        _fail(str(error), 2)
    except RunError as error:
        _fail(str(error), error.code)
    except KeyboardInterrupt:
        _fail("stopped; finished stages are kept and will be skipped by the next run", 1)
    except MemoryError:
        _fail("out of memory; lower per_device_train_batch_size or max_length", 1)
    except OSError as error:
        if error.errno not in _DISK:
            _fail_unexpectedly(error)
        _fail(f"{error.filename or 'output_dir'}: {_DISK[error.errno]}; what was finished before is whole", 1)
    except RuntimeError as error:  # torch has no class of its own for memory on the CPU, or for a lost partner
        if processes.is_lost_partner(error):
            _fail("another process of this run has ended; go on with resume_from_checkpoint=true", 1)
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            _fail_unexpectedly(error)
        _fail("out of memory; lower per_device_train_batch_size or max_length, or set gradient_checkpointing", 1)
    except Exception as error:
        _fail_unexpectedly(error)


_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file grew larger than this disk or this account may hold",
    errno.EACCES: "no permission to write",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk does not answer",
}


def _fail(message: str, code: int) -> NoReturn:
    from sealtune.telling import one_line

    who = ""
    if not processes.is_first():
        time.sleep(PRECEDENCE)
        who = f"process {processes.index()}: "
    for line in message.split("\n"):
        sys.stderr.write(f"error: {who}{one_line(line)}\n")
    sys.stderr.flush()
    raise typer.Exit(code)


def _fail_unexpectedly(error: Exception) -> NoReturn:
    """A fault of ours: where it happened, without the control characters and keys that it may quote."""
    from sealtune.telling import hide_secrets, printable

    trace = "".join(traceback.format_exception(error))
    sys.stderr.write(printable(hide_secrets(trace), keep="\n"))
    _fail(f"{type(error).__name__}: this is a fault of sealtune; please report it with the lines above", 1)


if __name__ == "__main__":
    main()
