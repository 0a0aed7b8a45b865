"""Untrusted text in messages: one line, no control characters, no secrets.

Rows, files, servers and libraries are quoted in messages. No quoted text may move the cursor, forge a line, fill the
screen or reveal a key.
"""

from __future__ import annotations

import os
import re

MAX_LINE_LENGTH = 1000
"""Characters of a message; a quoted row may be a megabyte long."""
MASK = "***"

_SECRET_VARIABLE = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_MIN_SECRET_LENGTH = 8  # local servers get keys such as "none"; masking such words would confuse
_PATTERNS = (
    re.compile(r"(?<=://)[^/\s@'\"]+(?=@)"),  # user and password in a URL
    re.compile(r"(?<=\bBearer )[\w.~+/=-]{8,}"),
    re.compile(r"\b(?:hf_|sk-|ghp_|github_pat_|xox[abp]-)[\w-]{16,}"),
)
_registered: set[str] = set()


def escape_unprintable(text: str, keep: str = "") -> str:
    """Escape control and bidirectional characters, except those in ``keep``."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def is_valid_utf8(text: str) -> bool:
    """Whether the text can be encoded as UTF-8; a lone surrogate, which JSON allows, cannot."""
    return text.isascii() or text == text.encode("utf-8", "ignore").decode()


def one_line(text: str) -> str:
    """The text as one printable line without secrets; beyond ``MAX_LINE_LENGTH`` the middle is cut out."""
    line = escape_unprintable(hide_secrets(text))
    if len(line) <= MAX_LINE_LENGTH:
        return line
    half = (MAX_LINE_LENGTH - 5) // 2
    return f"{line[:half]} ... {line[-half:]}"


def excerpt(text: object, most: int) -> str:
    """The beginning of a text, or of what an error says, without line breaks: at most this many characters."""
    return " ".join(str(text).split())[:most]


def register_secret(value: str) -> None:
    """Mask this value in all messages from now on."""
    if len(value) >= _MIN_SECRET_LENGTH:
        _registered.add(value)


def hide_secrets(text: str) -> str:
    """Mask registered secrets, secrets in the environment, and anything that looks like a key."""
    for value in (*_registered, *_environment_secrets()):
        text = text.replace(value, MASK)
    for pattern in _PATTERNS:
        text = pattern.sub(MASK, text)
    return text


def contains_secret(text: str) -> bool:
    """Whether the text seems to contain a key, token or password."""
    return any(pattern.search(text) for pattern in _PATTERNS)


def _environment_secrets() -> list[str]:
    values = (value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name))
    return [value for value in values if len(value) >= _MIN_SECRET_LENGTH]
