"""Columns of well-known datasets, and how they are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

CONVERSATION_COLUMNS = ("conversation", "dialog", "dialogue", "chat", "turns", "chat_messages")
PAIRS = (
    *(("query", "answer"), ("query", "response"), ("question", "answer"), ("question", "response")),
    *(("question", "output"), ("prompt", "answer"), ("prompt", "output"), ("prompt", "text"), ("input", "output")),
    *(("input", "response"), ("inputs", "targets"), ("instruction", "completion"), ("instruction", "answer")),
    *(("problem", "solution"), ("problem", "answer"), ("user", "assistant"), ("human", "assistant")),
    *(("human", "bot"), ("user", "bot"), ("source", "target")),
)
"""Columns of the prompt and the response."""

RENAMED: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("alpaca", {"instruction": "instruction", "input": "context", "output": "response"}),  # Dolly
    ("alpaca", {"instruction": "instruction", "input": "input", "output": "response"}),
    ("alpaca", {"instruction": "question", "input": "context", "output": "answer"}),
    ("alpaca", {"instruction": "prompt", "input": "input", "output": "output"}),
    ("alpaca", {"instruction": "prompt", "input": "context", "output": "response"}),
    ("alpaca", {"instruction": "instruction", "output": "response"}),
    *(("messages", {"messages": column}) for column in CONVERSATION_COLUMNS),
    *(("prompt_response", {"prompt": prompt, "response": response}) for prompt, response in PAIRS),
)
"""Formats and their columns under other names; the first that fits is read."""


def find(columns: Iterable[str]) -> tuple[str, Mapping[str, str]] | None:
    """The format of these columns, and the column of each of its fields; None if they are of no well-known dataset."""
    present = set(columns)
    return next((known for known in RENAMED if present >= set(known[1].values())), None)
