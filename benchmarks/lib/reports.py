"""The JSON files that benchmarks write, and benchmarks that run parts of themselves in processes of their own."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any


def provenance(args: argparse.Namespace, hidden: Collection[str] = ()) -> dict[str, Any]:
    """Command, settings (all but ``output`` and the ``hidden`` ones), code, machine and versions."""
    from sealtune.pipeline.environment import git_revision, machine, versions

    settings = {key: _plain(value) for key, value in vars(args).items() if key not in ("output", *hidden)}
    return {
        "command": command(),
        "settings": settings,
        "git_revision": git_revision(),
        "machine": machine(),
        "versions": versions(),
    }


def command() -> str:
    """The command line of this process."""
    return " ".join(["python", *sys.argv])


def write_report(report: dict[str, Any], output: Path | None) -> None:
    """Write the report as JSON, if a file is given."""
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def run_child(script: str, *words: object) -> Any:
    """Run a script in a process of its own; what it prints last, parsed as JSON."""
    command = [sys.executable, script, *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
