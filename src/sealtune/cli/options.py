"""The options that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sealtune.cli.arguments import spread_values


class Commands(TyperGroup):
    """The commands; ``--data`` and ``--safe`` take several values."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse a command line."""
        return super().parse_args(ctx, spread_values(args))


Words = Annotated[list[str] | None, typer.Argument(metavar="[CONFIG.yaml] [key=value ...]", show_default=False)]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="The config file, as an option.")]
Model = Annotated[str | None, typer.Option("--model", help="model_name_or_path: a hub id, folder or GGUF file.")]
Data = Annotated[
    list[str] | None, typer.Option("--data", help="datasets: files, folders or hub ids; several may follow.")
]
Safe = Annotated[list[str] | None, typer.Option("--safe", help="safe_datasets: rows of safe behaviour, likewise.")]
Out = Annotated[str | None, typer.Option("--out", help="output_dir: the folder of the run.")]
ModelAnswers = Annotated[
    bool | None,
    typer.Option(
        "--model-answers/--no-model-answers",
        help="Ask the model how it would answer the safe set's prompts; default: if it is small and local.",
        show_default=False,
    ),
]
Adapter = Annotated[Path, typer.Argument(help="The folder of a LoRA adapter.", show_default=False)]
Keep = Annotated[float | None, typer.Option("--keep", help="select.keep_ratio: the share of rows to keep.")]
Decisions = Annotated[
    str | None, typer.Option("--decisions", help="decisions: JSONL file of what people decided about rows.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show only errors, and where the result is.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, and nothing else.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)]
Serve = Annotated[bool, typer.Option("--serve", help="Serve the report on this machine; decisions are saved in RUN.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port for --serve; 0: any that is free.")]
ShownRows = Annotated[int, typer.Option("--rows", min=0, help="Number of rows of each kind.")]
ScoresFile = Annotated[
    str | None,
    typer.Option("--scores", help="Scores made elsewhere, in place of a ranking: a file with id and score."),
]
Force = Annotated[bool, typer.Option("--force", help="Run again even if nothing changed.")]
Accelerate = Annotated[
    str | None,
    typer.Option(
        "--accelerate_config",
        help="Run in several processes: single_gpu, multi_gpu, multi_cpu, fsdp2, zero2, zero3, or a file.",
    ),
]
Processes = Annotated[
    int | None, typer.Option("--num_processes", min=1, help="Number of processes; default: one per GPU.")
]
Rows = Annotated[int, typer.Option("--rows", min=0, help="Number of rows to show.")]
Candidates = Annotated[
    int | None, typer.Option("--rows", min=1, help="Number of candidates, if their files are missing.")
]
GpuName = Annotated[str, typer.Option("--gpu", help="A100, H100 or H200.")]
