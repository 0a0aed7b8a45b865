"""YAML that may be broken or made to harm: plain values, or one fault with its line.

PyYAML's safe loader runs no code, but it raises half a dozen kinds of errors, recurses as deep as the text is nested,
and lets a few lines of aliases stand for gigabytes. So depth is bounded while the text is read, and what it would grow
to is measured before any value is made of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sealtune.core.config import (
    CompareConfig,
    Config,
    DatasetConfig,
    EvaluateConfig,
    JudgeConfig,
    PromptsConfig,
    RankConfig,
    ReportConfig,
    SelectConfig,
    TuneConfig,
)
from sealtune.core.errors import UserError, did_you_mean
from sealtune.core.sanitize import can_be_written, looks_secret

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


FAULTS_TOLD = 10


SECRETIVE = ("base_url", "api_key_env")
"""Keys whose wrong values are not shown: a secret may stand there."""


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file. Raises UserError that names the file and the line."""
    try:
        with path.open(encoding="utf-8") as file:
            content = parse(file.read(LARGEST + 1))
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except (OSError, ValueError) as error:  # not UTF-8, or a NUL in the name
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    except NotPlainError as error:
        line = f", line {error.line}" if error.line else ""
        raise UserError(f"{path}{line}: not valid YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: a config is a mapping of keys to values, not a {type(content).__name__}")
    return content


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``values`` with each ``a.b=value`` written into it; the value is read as YAML. Raises UserError."""
    for override in overrides:
        dotted, _, text = override.partition("=")
        *parents, last = dotted.split(".")
        node = values
        for key in parents:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise UserError(f"{override}: {key} is not a block of keys")
        try:
            node[last] = parse(text)
        except NotPlainError as error:
            raise UserError(f"{override}: the value is not valid YAML: {error}") from None
    return values


def build_config(values: Mapping[str, Any], where: str = "config") -> Config:
    """A checked Config. Raises UserError with one line per fault and, for an unknown key, the nearest known one."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        told = [_explain(fault, where) for fault in error.errors()[:FAULTS_TOLD]]
        more = [f"{where}: and {n:,} more"] if (n := error.error_count() - len(told)) else []
        raise UserError(*told, *more) from None
    for text in _strings(config.model_dump()):
        if looks_secret(text):  # it would stand in manifests and reports
            raise UserError(f"{where}: a key, token or password stands in it; put it into an environment variable")
        if "\0" in text or not can_be_written(text):
            raise UserError(f"{where}: {text!r} holds a NUL or half of a surrogate pair; no file can have such a name")
    return config


def _strings(value: Any) -> Iterator[str]:
    """Every text in plain values, keys included."""
    if isinstance(value, Mapping):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)
    if isinstance(value, str):
        yield value


def _explain(fault: Any, where: str) -> str:
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        *_, unknown = fault["loc"]
        hint = did_you_mean(str(unknown), _all_keys(Config), cutoff=0.5) or "see `sealtune schema`"
        return f"{where}: unknown key {path!r}; {hint}"
    if fault["type"] == "missing":
        return f"{where}: {path} is missing; set it in the file or as {path}=VALUE"
    if not path:  # a rule over several keys: the message says it all
        return f"{where}: {fault['msg'].removeprefix('Value error, ')}"
    return f"{where}: {path}: {fault['msg']}{_shown(fault)}"


def _shown(fault: Any) -> str:
    """The wrong value, if it is a single one: a block may be long, and hold a secret."""
    value = fault["input"]
    if fault["loc"][-1] in SECRETIVE or not isinstance(value, str | int | float | None):
        return ""
    return f" (got {value!r})"


def _all_keys(model: type[BaseModel]) -> list[str]:
    """Every key of every block, for suggestions."""
    stages = (RankConfig, SelectConfig, TuneConfig, EvaluateConfig, ReportConfig, CompareConfig)
    blocks = (*stages, DatasetConfig, PromptsConfig, JudgeConfig)
    return sorted({key for block in (model, *blocks) for key in block.model_fields})
