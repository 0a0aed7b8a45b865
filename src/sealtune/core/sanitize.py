"""What is told of other people's texts: in one line, without control characters, and without secrets.

Rows, files, servers and libraries all end up quoted in messages. None of them may move the cursor, write a line of its
own, fill the screen, or show a key.
"""

from __future__ import annotations

import os
import re

LONGEST_LINE = 1000
"""Characters of a message; a row may be a megabyte long."""
HIDDEN = "***"

_SECRET_VARIABLE = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_LEAST_SECRET = 8  # local servers are given keys such as "none"; to hide such words would only puzzle
_PATTERNS = (
    re.compile(r"(?<=://)[^/\s@'\"]+(?=@)"),  # user and password of an address
    re.compile(r"(?<=\bBearer )[\w.~+/=-]{8,}"),
    re.compile(r"\b(?:hf_|sk-|ghp_|github_pat_|xox[abp]-)[\w-]{16,}"),
)
_known: set[str] = set()


def printable(text: str, keep: str = "") -> str:
    """Text that cannot move the cursor or turn the line around: it may quote a row. ``keep``: characters left as is."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def can_be_written(text: str) -> bool:
    """Whether UTF-8 can hold the text: JSON may carry half of a surrogate pair."""
    return text.isascii() or text == text.encode("utf-8", "ignore").decode()


def one_line(text: str) -> str:
    """The text as one printable line of at most LONGEST_LINE characters, without secrets; the middle is left out."""
    shown = printable(hide_secrets(text))
    if len(shown) <= LONGEST_LINE:
        return shown
    half = (LONGEST_LINE - 5) // 2
    return f"{shown[:half]} ... {shown[-half:]}"


def keep_secret(value: str) -> None:
    """From now on this value is hidden wherever something is told."""
    if len(value) >= _LEAST_SECRET:
        _known.add(value)


def hide_secrets(text: str) -> str:
    """The text with stars for what looks like a key, for keys in use, and for those in the environment."""
    for value in (*_known, *_in_environment()):
        text = text.replace(value, HIDDEN)
    for pattern in _PATTERNS:
        text = pattern.sub(HIDDEN, text)
    return text


def looks_secret(text: str) -> bool:
    """Whether a key, a token or a password seems to stand in the text."""
    return any(pattern.search(text) for pattern in _PATTERNS)


def _in_environment() -> list[str]:
    named = (value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name))
    return [value for value in named if len(value) >= _LEAST_SECRET]
