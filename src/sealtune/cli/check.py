"""The page of ``sealtune check``."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from sealtune.cli.inspect import show_row
from sealtune.core.sanitize import one_line
from sealtune.pipeline.check import Findings
from sealtune.pipeline.inputs import RunInputs


def show(found: Findings, inputs: RunInputs, console: Console) -> None:
    """Print what was understood, the first row as the model sees it, and what would be lost."""
    for title, lines in found.sections.items():
        console.rule(Text(title), align="left")
        for line in lines:
            console.print(Text(one_line(line)), soft_wrap=True)
    console.rule(Text("the first row, as the model is trained on it"), align="left")
    show_row(inputs.load_candidates().encoded, 0, inputs.load_tokenizer(), console)
    console.rule(Text("what would be lost"), align="left")
    for line in found.lost or ["nothing"]:
        console.print(Text(one_line(line)), soft_wrap=True)
