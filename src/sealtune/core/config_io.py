"""Reading and checking a configuration: YAML, ``key=value`` overrides, and one error line per problem.

Configs may be broken or hostile. PyYAML's safe loader runs no code, but it recurses as deep as the text is nested,
expands a few lines of aliases to gigabytes, and raises many types of errors. Therefore the nesting depth is limited
while parsing, and the expanded size is computed before any value is constructed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sealtune.core.config import Block, Config
from sealtune.core.errors import UserError, did_you_mean
from sealtune.core.sanitize import contains_secret, is_valid_utf8

MAX_CHARACTERS = 2**20
MAX_DEPTH = 50
MAX_VALUES = 100_000
"""Values in a text after its aliases are expanded."""
MAX_ERRORS = 10
"""Errors of one config that are printed."""
SECRET_KEYS = ("base_url", "api_key_env")
"""Keys whose invalid values are not quoted, because users put secrets there by mistake."""


class InvalidYamlError(Exception):
    """Why a text is not a valid config; ``line`` counts from 1, 0 if unknown."""

    def __init__(self, problem: str, line: int = 0) -> None:
        super().__init__(problem)
        self.line = line


def parse(text: str) -> Any:
    """The value of a YAML text. Raises InvalidYamlError."""
    if len(text) > MAX_CHARACTERS:
        raise InvalidYamlError(f"more than {MAX_CHARACTERS:,} characters")
    try:
        loader = _ShallowLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise InvalidYamlError(getattr(error, "problem", None) or str(error), mark.line + 1 if mark else 0) from None
    except (ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        # A number of more than 4300 digits, an impossible date, a tag that does not fit its value.
        raise InvalidYamlError(f"a value that cannot be read ({error})") from None


class _ShallowLoader(yaml.SafeLoader):
    """A safe loader with a limited nesting depth."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node and its children. Raises InvalidYamlError."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise InvalidYamlError("nested too deeply", self.line + 1)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _count_values(node: Any, counts: dict[int, int]) -> int:
    """The number of values below a node, aliases expanded. Raises InvalidYamlError beyond the limit."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in counts:
        counts[id(node)] = MAX_VALUES + 1  # until known: a node that contains itself never ends
        children = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        counts[id(node)] = 1 + sum(_count_values(child, counts) for child in children)
    if counts[id(node)] > MAX_VALUES:
        raise InvalidYamlError("aliases that grow without end", node.start_mark.line + 1)
    return counts[id(node)]


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError that names the file and the line."""
    try:
        with path.open(encoding="utf-8") as file:
            content = parse(file.read(MAX_CHARACTERS + 1))
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except (OSError, ValueError) as error:  # not UTF-8, or a NUL in the name
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    except InvalidYamlError as error:
        line = f", line {error.line}" if error.line else ""
        raise UserError(f"{path}{line}: not valid YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: a config is a mapping of keys to values, not a {type(content).__name__}")
    return content


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Write each ``a.b=value`` into ``values`` and return it; the value is parsed as YAML. Raises UserError."""
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
        except InvalidYamlError as error:
            raise UserError(f"{override}: the value is not valid YAML: {error}") from None
    return values


def build_config(values: Mapping[str, Any], where: str = "config") -> Config:
    """Validate a config. Raises UserError with one line per problem; for an unknown key it suggests the closest one."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        lines = [_explain(problem, where) for problem in error.errors()[:MAX_ERRORS]]
        more = [f"{where}: and {n:,} more"] if (n := error.error_count() - len(lines)) else []
        raise UserError(*lines, *more) from None
    for text in _strings(config.model_dump()):
        if contains_secret(text):  # it would be written to manifests and reports
            raise UserError(f"{where}: contains a key, token or password; put it into an environment variable")
        if "\0" in text or not is_valid_utf8(text):
            raise UserError(f"{where}: {text!r} contains a NUL or a lone surrogate; no file can have such a name")
    return config


def _strings(value: Any) -> Iterator[str]:
    """All strings in nested values, keys included."""
    if isinstance(value, Mapping):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)
    if isinstance(value, str):
        yield value


def _explain(problem: Any, where: str) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        *_, unknown = problem["loc"]
        hint = did_you_mean(str(unknown), _all_keys(), cutoff=0.5) or "see `sealtune schema`"
        return f"{where}: unknown key {path!r}; {hint}"
    if problem["type"] == "missing":
        return f"{where}: {path} is missing; set it in the file or as {path}=VALUE"
    if not path:  # a rule about several keys, which the message names
        return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
    return f"{where}: {path}: {problem['msg']}{_quote_value(problem)}"


def _quote_value(problem: Any) -> str:
    """The invalid value if it is a scalar: a block may be long and contain a secret."""
    value = problem["input"]
    if problem["loc"][-1] in SECRET_KEYS or not isinstance(value, str | int | float | None):
        return ""
    return f" (got {value!r})"


def _all_keys() -> list[str]:
    """The keys of all blocks, for suggestions."""
    return sorted({key for block in _subclasses(Block) for key in block.model_fields})


def _subclasses(block: type[Block]) -> Iterator[type[Block]]:
    for subclass in block.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
