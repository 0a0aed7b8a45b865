"""A view as one self-contained HTML page: no request leaves it, and nothing that a row says is read as HTML.

Its content security policy names the page's own scripts by their hash, so a script from a row would not run even if
it slipped through the escaping.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from sealtune.report import figures, html, tables
from sealtune.report.view import ReportView

_FOLDER = Path(__file__).parent


def render(view: ReportView) -> str:
    """The HTML text of the page; parts of the view that are empty leave their sections out."""
    pictures = {name: figure for name, figure in _draw(view).items() if figure is not None}
    scripts = {"plotly": get_plotlyjs(), "draw": (_FOLDER / "page.js").read_text(encoding="utf-8")} if pictures else {}
    return _template().render(
        view=view,
        tables=tables,
        pictures=pictures,
        figure_data=html.embed_json(pictures),
        scripts={name: Markup(script) for name, script in scripts.items()},
        policy=_policy(scripts.values()),
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        facts=_facts(view.manifest),
        stages=_stage_table(view.manifest),
        config_yaml=_as_yaml(view.config),
        manifest_yaml=_as_yaml(view.manifest),
    )


def _draw(view: ReportView) -> dict[str, figures.Figure | None]:
    return {
        "histogram": figures.score_histogram(view),
        "rank": figures.rank_curves(view),
        "tune": figures.tune_curves(view),
        "sources": figures.source_bars(view),
        "roc": figures.roc_figure(view),
        "precision": figures.precision_figure(view),
        "rates": figures.evaluation_dots(view, losses=False),
        "losses": figures.evaluation_dots(view, losses=True),
    }


def _policy(scripts: Any) -> str:
    """The content security policy. Plotly sets style attributes, hence unsafe-inline for styles."""
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
        "number": html.show_number,
        "percent": html.show_percent,
        "fact": lambda value, name: html.show_fact(name, value),
    }
    return environment.get_template("page.html")


def _facts(manifest: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Scalars of the manifest, then the versions."""
    versions = manifest.get("versions")
    named = versions.items() if isinstance(versions, Mapping) else ()
    return [*((k, v) for k, v in manifest.items() if _is_scalar(v)), *((f"{k} version", v) for k, v in named)]


def _stage_table(manifest: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, Mapping[str, Any]]]]:
    """The columns that any stage has, and each stage with its facts."""
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
    """Mappings and sequences as YAML knows them; whatever it does not know as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
