"""Reading and checking a configuration: YAML, ``key=value`` overrides, and one error line per problem.

Configs may be broken or hostile. PyYAML's safe loader runs no code, but it recurses as deep as the text is nested,
expands a few lines of aliases to gigabytes, and raises many types of errors. Therefore the nesting depth is limited
while parsing, and the expanded size is computed before any value is constructed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sealtune.core.config import Block, Config
from sealtune.core.encodings import encoding_of
from sealtune.core.errors import UserError, did_you_mean
from sealtune.core.sanitize import contains_secret, is_valid_utf8

MAX_CHARACTERS = 2**20
MAX_DEPTH = 50
MAX_VALUES = 100_000
"""Values in a text after its aliases are expanded."""
MAX_ERRORS = 10
"""Errors of one config that are printed."""
COMMAND_LINE = "command line"
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
    """The mapping in a YAML file, in UTF-8 or as its byte order mark says. Raises UserError that names the line."""
    try:
        path = path.expanduser()
        with path.open("rb") as file:
            encoding = encoding_of(file.read(4))
        with path.open(encoding=encoding) as text:
            content = parse(text.read(MAX_CHARACTERS + 1))
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except UnicodeError:
        raise UserError(f"{path}: not {encoding.upper()} text; save the file as UTF-8") from None
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the name, or no such user
        raise UserError(f"{path}: cannot be read: {error}") from None
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


def build_config(values: Mapping[str, Any], where: str = "config", given: Collection[str] = ()) -> Config:
    """Validate a config.

    Args:
        values: The config.
        where: Where it was read, for error messages.
        given: Keys such as ``rank.gamma`` that were given on the command line instead.

    Raises:
        UserError: one line per problem; for an unknown key it suggests the closest one.
    """
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        lines = [_explain(problem, where, given) for problem in error.errors()[:MAX_ERRORS]]
        more = [f"{where}: and {n:,} more"] if (n := error.error_count() - len(lines)) else []
        raise UserError(*lines, *more) from None
    for path, text in _strings(config.model_dump()):
        place = COMMAND_LINE if _is_within(path, given) else where
        if contains_secret(text):  # it would be written to manifests and reports
            raise UserError(f"{place}: contains a key, token or password; put it into an environment variable")
        if "\0" in text or not is_valid_utf8(text):
            raise UserError(f"{place}: {text!r} contains a NUL or a lone surrogate; no file can have such a name")
    return config


def override_key(override: str) -> str:
    """The key of ``a.b=value``."""
    return override.partition("=")[0]


def _is_within(path: str, given: Collection[str]) -> bool:
    """Whether a value lies at or below a key that was given on the command line."""
    return any(f"{path}.".startswith(f"{key}.") for key in given)


def _strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The path and text of all strings in nested values, keys included."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            inner = f"{path}.{key}" if path else str(key)
            yield from _strings(key, inner)
            yield from _strings(part, inner)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part, path)
    elif isinstance(value, str):
        yield path, value


def _explain(problem: Any, where: str, given: Collection[str]) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if _is_within(path, given) or _is_rule_about(problem, path, given):
        where = COMMAND_LINE
    if problem["type"] == "extra_forbidden":
        *_, unknown = problem["loc"]
        hint = did_you_mean(str(unknown), _all_keys(), cutoff=0.5) or "see `sealtune schema`"
        return f"{where}: unknown key {path!r}; {hint}"
    if problem["type"] == "missing":
        return f"{where}: {path} is missing; set it in the file or as {path}=VALUE"
    message = problem["msg"].removeprefix("Value error, ")
    if not path:  # a rule about several keys, which the message names
        return f"{where}: {message}"
    return f"{where}: {path}: {message}{_quote_value(problem)}"


def _is_rule_about(problem: Any, path: str, given: Collection[str]) -> bool:
    """Whether this is a rule about several keys of a block, and one that it names was given on the command line."""
    if problem["type"] != "value_error":
        return False
    within = [key for key in given if not path or _is_within(key, [path])]
    return any(re.search(rf"\b{re.escape(key.rpartition('.')[2])}\b", problem["msg"]) for key in within)


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
