"""Formats values and untrusted text for the page."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

# Characters that have an effect but no glyph: C0 and C1 controls except newline and tab, zero-width and bidirectional
# controls, line separators, lone surrogates (which UTF-8 cannot encode), blank fillers, and the tag characters and
# variation selectors that can hide a whole sentence.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\u034f\u115f\u1160\u3164\uffa0\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f\U000e0100-\U000e01ef]"
)
MISSING = "\u2013"


def reveal(text: Any) -> Markup:
    """The text escaped for HTML, with each invisible character replaced by its highlighted code point."""
    plain = str(text).replace("\r\n", "\n")
    return Markup(_INVISIBLE.sub(_highlight, str(escape(plain))))


def one_line(text: Any, limit: int = 60) -> str:
    """The text as a short label of a figure, with code points spelled out; it is never read as HTML."""
    line = " ".join(_INVISIBLE.sub(lambda m: _code_point(m[0]), str(text)).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def embed_json(value: Any) -> Markup:
    """JSON that cannot close the script element around it; NaN and infinity become null."""
    text = json.dumps(_without_nan(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def embed_compressed(value: Any) -> Markup:
    """JSON, compressed, in base64, whose alphabet has nothing that HTML interprets; page.js unpacks it."""
    text = json.dumps(_without_nan(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Markup(base64.b64encode(gzip.compress(text.encode("ascii"), 9, mtime=0)).decode("ascii"))


def format_number(value: Any, digits: int = 3) -> str:
    """A number with thousands separators, floats with ``digits`` decimals; a dash for anything else and for NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return MISSING
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def format_percent(value: Any) -> str:
    """A share as a percentage with one decimal; a dash for None and NaN."""
    shown = format_number(100.0 * value if isinstance(value, (int, float)) else None, 1)
    return shown if shown == MISSING else f"{shown}%"


def format_measure(value: Any, unit: str) -> str:
    """A value of the evaluation table: shares as percentages, all other units as numbers."""
    return format_percent(value) if unit == "share" else format_number(value)


def format_fact(name: str, value: Any) -> str:
    """A value of the manifest in the unit that its name implies: seconds, bytes, or none."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if "second" in name:
            return _duration(float(value))
        if "bytes" in name or "memory" in name:
            return f"{value / 2**30:,.2f} GiB"
        return str(value) if name == "seed" else format_number(value)
    return MISSING if value is None else str(value)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _highlight(match: re.Match[str]) -> str:
    return f'<span class="hidden-char" title="invisible character">{_code_point(match[0])}</span>'


def _code_point(character: str) -> str:
    return f"U+{ord(character):04X}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
