"""Renders a view as one self-contained HTML page: it makes no request, and row texts are never interpreted as HTML.

Its content security policy allows only the page's own scripts, by hash: a script in a row would not run even if it
slipped through the escaping.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from sealtune.core.types import Decision
from sealtune.report import evaluation_figures, figures, guard, html, tables, tiles
from sealtune.report.row_data import row_data
from sealtune.report.sentences import sentences
from sealtune.report.view import ReportView

_FOLDER = Path(__file__).parent
_LIBRARIES = ("vendor/d3.min.js", "vendor/plot.min.js")
_SCRIPTS = ("text.js", "charts.js", "decisions.js", "rows.js", "detail.js", "browser.js", "page.js")


def render(view: ReportView) -> str:
    """The HTML of the page, without sections for empty parts of the view."""
    drawn = {name: figure for name, figure in _figures(view).items() if figure is not None}
    has_rows = len(view.scores) > 0
    scripts = _scripts() if drawn or has_rows else []
    return _template().render(
        view=view,
        tables=tables,
        tiles=tiles,
        said=" ".join(sentences(view)),
        guard_sentence=guard.guard_sentence(view.guard),
        figures=drawn,
        figure_data=html.embed_json(drawn),
        row_data=html.embed_compressed(row_data(view)) if has_rows else None,
        decisions=html.embed_json({i: _decision(made) for i, made in view.decisions.items()}),
        scripts=[Markup(script) for script in scripts],
        policy=Markup(_policy(scripts)),
        style=Markup(_read("page.css")),
        facts=_facts(view.manifest),
        stages=_stage_table(view.manifest),
        config_yaml=_as_yaml(view.config),
        manifest_yaml=_as_yaml(view.manifest),
    )


def _decision(made: Decision) -> dict[str, str]:
    """What the page knows of a decision; its text is that of decisions.jsonl."""
    return {name: value for name, value in asdict(made).items() if name != "id" and value}


@cache
def _scripts() -> list[str]:
    """The libraries, each as it is, and the page's own scripts as one."""
    own = "\n".join(_read(name) for name in _SCRIPTS)
    return [*(_read(name) for name in _LIBRARIES), own]


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _figures(view: ReportView) -> dict[str, figures.Figure | None]:
    return {
        "histogram": figures.score_histogram(view),
        "rank": figures.rank_curves(view),
        "tune": figures.tune_curves(view),
        "guard": guard.guard_figure(view),
        "sources": figures.source_bars(view),
        "lengths": figures.length_dots(view),
        "roc": figures.roc_figure(view),
        "precision": figures.precision_figure(view),
        "shares": evaluation_figures.share_dots(view),
        "losses": evaluation_figures.loss_dots(view),
        "trade_off": evaluation_figures.trade_off(view),
    }


def _policy(scripts: Sequence[str]) -> str:
    """The content security policy; charts set style attributes, which needs unsafe-inline for styles."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "reveal": html.reveal,
        "number": html.format_number,
        "percent": html.format_percent,
        "measure": html.format_measure,
        "fact": lambda value, name: html.format_fact(name, value),
    }
    return environment.get_template("page.html")


def _facts(manifest: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The top-level scalars of the manifest, then the versions."""
    versions = manifest.get("versions")
    named = versions.items() if isinstance(versions, Mapping) else ()
    return [*((k, v) for k, v in manifest.items() if _is_scalar(v)), *((f"{k} version", v) for k, v in named)]


def _stage_table(manifest: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, Mapping[str, Any]]]]:
    """The scalar facts that occur in any stage, as columns, and each stage with its facts."""
    stages = manifest.get("stages")
    if not isinstance(stages, Mapping):
        return [], []
    rows = [(str(name), facts) for name, facts in stages.items() if isinstance(facts, Mapping)]
    return list(dict.fromkeys(key for _, facts in rows for key, value in facts.items() if _is_scalar(value))), rows


def _is_scalar(value: Any) -> bool:
    return value is not None and not isinstance(value, (Mapping, list, tuple, set))


def _as_yaml(values: Mapping[str, Any] | Sequence[Any]) -> str:
    return yaml.safe_dump(_plain(values), sort_keys=False, allow_unicode=True, width=100) if values else ""


def _plain(value: Any) -> Any:
    """The value in types that YAML can represent; all others become text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
