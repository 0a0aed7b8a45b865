"""Values and hostile texts as they may stand on the page."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

# Characters that act without being seen: C0 and C1 controls but newline and tab, zero-width and bidirectional marks,
# line separators, lone surrogates (which UTF-8 cannot carry), blanks that are no blanks, and the tag characters and
# variation selectors that can hide a whole sentence.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\u034f\u115f\u1160\u3164\uffa0\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f\U000e0100-\U000e01ef]"
)
ABSENT = "\u2013"


def reveal(text: Any) -> Markup:
    """The text escaped for HTML, with each invisible character replaced by its marked code point."""
    plain = str(text).replace("\r\n", "\n")
    return Markup(_INVISIBLE.sub(_mark, str(escape(plain))))


def flatten(text: Any, limit: int = 60) -> str:
    """A short one-line form for a figure, where plotly would read tags: escaped, code points spelled out."""
    line = " ".join(_INVISIBLE.sub(lambda m: _name(m[0]), str(text)).split())
    return html.escape(line if len(line) <= limit else line[: limit - 1] + "…", quote=False)


def embed_json(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in; NaN and infinity become null."""
    text = json.dumps(_without_nan(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def show_number(value: Any, digits: int = 3) -> str:
    """A number with this many decimals, thousands separated; a dash for None, NaN and what is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return ABSENT
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def show_percent(value: Any) -> str:
    """A share as a percentage with one decimal; a dash for None and NaN."""
    shown = show_number(100 * value if isinstance(value, (int, float)) else None, 1)
    return shown if shown == ABSENT else f"{shown}\u00a0%"


def show_fact(name: str, value: Any) -> str:
    """A value of the manifest in the unit that its name tells: seconds, bytes, or as it is."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if "second" in name:
            return _duration(float(value))
        if "bytes" in name or "memory" in name:
            return f"{value / 2**30:,.2f} GiB"
        return str(value) if name == "seed" else show_number(value)
    return ABSENT if value is None else str(value)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _mark(match: re.Match[str]) -> str:
    return f'<span class="hidden-char" title="invisible character">{_name(match[0])}</span>'


def _name(character: str) -> str:
    return f"U+{ord(character):04X}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
