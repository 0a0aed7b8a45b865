"""YAML that may be broken or made to harm: plain values, or one fault with its line.

PyYAML's safe loader runs no code, but it raises half a dozen kinds of errors, recurses as deep as the text is nested,
and lets a few lines of aliases stand for gigabytes. So depth is bounded while the text is read, and what it would grow
to is measured before any value is made of it.
"""

from __future__ import annotations

from typing import Any

import yaml

LARGEST = 2**20
"""Characters; configs take a few thousand."""
DEEPEST = 50
MOST_VALUES = 100_000
"""What a text may grow to once its aliases are followed."""


class NotPlainError(Exception):
    """What is wrong with a text; ``line`` is counted from 1, and 0 where none can be named."""

    def __init__(self, problem: str, line: int = 0) -> None:
        super().__init__(problem)
        self.line = line


def parse(text: str) -> Any:
    """The value of a YAML text. Raises NotPlainError."""
    if len(text) > LARGEST:
        raise NotPlainError(f"more than {LARGEST:,} characters")
    try:
        loader = _ShallowLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise NotPlainError(getattr(error, "problem", None) or str(error), mark.line + 1 if mark else 0) from None
    except (ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        # A number of more than 4300 digits, the 99th of a month, a tag that does not fit its value.
        raise NotPlainError(f"a value that cannot be read ({error})") from None


class _ShallowLoader(yaml.SafeLoader):
    """A safe loader that gives up where the text is nested too deeply, and not where Python does."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node and all below it. Raises NotPlainError."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise NotPlainError("nested too deeply", self.line + 1)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _count(node: Any, counts: dict[int, int]) -> int:
    """How many values a node stands for. Raises NotPlainError past the limit, or where a node holds itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in counts:
        counts[id(node)] = MOST_VALUES + 1  # until it is known: met again below itself, it has no end
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        counts[id(node)] = 1 + sum(_count(part, counts) for part in parts)
    if counts[id(node)] > MOST_VALUES:
        raise NotPlainError("aliases that grow without end", node.start_mark.line + 1)
    return counts[id(node)]
