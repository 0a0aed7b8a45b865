"""From the arguments of a command line to a config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealtune.core.errors import UserError

if TYPE_CHECKING:
    from sealtune.core.config import Config

FLAGS = {
    "model": "model_name_or_path",
    "data": "datasets",
    "safe": "safe_datasets",
    "out": "output_dir",
    "keep": "select.keep_ratio",
    "scores": "rank.scores",
}
"""Short flag -> config key."""
MANY_VALUES = ("--data", "--safe")
"""Options that take several values."""


def spread_values(arguments: Sequence[str]) -> list[str]:
    """Repeat ``--data`` and ``--safe`` before each further value: ``--data a b`` as ``--data a --data b``.

    Every word behind the first value belongs to the option, up to the next option, a YAML file or key=value. That is
    how a shell expands ``--data shards/*.jsonl``.
    """
    spread: list[str] = []
    option, count = None, 0
    for number, word in enumerate(arguments):
        if word == "--":
            return [*spread, *arguments[number:]]
        if word.startswith("-"):
            name, assigned, _ = word.partition("=")
            option, count = name if name in MANY_VALUES else None, len(assigned)
        elif option is not None:
            count += 1
            if count > 1 and _is_setting(word):
                option = None
            elif count > 1:
                spread.append(option)
        spread.append(word)
    return spread


def _is_setting(word: str) -> bool:
    """Whether a word is a YAML file or key=value rather than data; a file of this name is data."""
    return word.endswith((".yaml", ".yml")) or ("=" in word and not Path(word).exists())


def load_config(words: list[str], file: Path | None = None, *, calls_judges: bool = False, **flags: Any) -> Config:
    """The config of a command line. Without a file or a model, it is the one in the run folder's manifest.

    Args:
        words: A YAML file and ``key=value`` settings, in any order.
        file: The YAML file, if it is not among the words.
        calls_judges: Whether the command sends requests, and with them API keys, to servers.
        flags: Short flags and their values; see ``FLAGS``.

    Raises:
        UserError: A word is neither a YAML file nor key=value, or the config is invalid.
    """
    from sealtune.core.config_io import apply_overrides, build_config, override_key, read_yaml

    overrides = [word for word in words if "=" in word] + list(_as_overrides(flags))
    files = [Path(word) for word in words if "=" not in word] + ([file] if file else [])
    if len(files) > 1 or any(path.suffix not in (".yaml", ".yml") for path in files):
        raise UserError(f"{' '.join(map(str, files))}: give one config.yaml, and settings as key=value")
    if files:
        values, where = read_yaml(files[0]), str(files[0])
    else:
        values, where = _read_manifest(apply_overrides({}, overrides), calls_judges=calls_judges)
    return build_config(apply_overrides(values, overrides), where, set(map(override_key, overrides)))


def decision_settings(stages: Sequence[str], path: str | None) -> list[str]:
    """``--decisions`` as settings of the stages that read decisions. Raises UserError if none of these does."""
    import json

    if path is None:
        return []
    found = [f"{stage}.decisions={json.dumps(path)}" for stage in stages if stage in ("rank", "select")]
    if not found:
        raise UserError(f"--decisions: has no effect on {', '.join(stages)}; give it to rank, select or run")
    return found


def _read_manifest(given: Mapping[str, Any], *, calls_judges: bool) -> tuple[dict[str, Any], str]:
    """The config in the manifest of the run folder, and its path; empty if a model is given."""
    if "model_name_or_path" in given:
        return {}, "command line"
    from sealtune.pipeline.folder import RunFolder

    folder = RunFolder(str(given.get("output_dir") or ""))
    values, where = dict(folder.manifest().config), str(folder.path("manifest.json"))
    if not values:
        raise UserError("no config: give a config.yaml, or --model --data --safe --out, or --out of an earlier run")
    _require_trust(values, given, where, calls_judges=calls_judges)
    return values, where


def _require_trust(values: Mapping[str, Any], given: Mapping[str, Any], where: str, *, calls_judges: bool) -> None:
    """Raise UserError if a run folder, which may come from somebody else, would run code or send an API key."""
    if values.get("trust_remote_code") and "trust_remote_code" not in given:
        raise UserError(
            f"{where}: runs code that comes with the model; if you trust it, set trust_remote_code=true, otherwise "
            "trust_remote_code=false"
        )
    evaluate = values.get("evaluate")
    if not calls_judges or not isinstance(evaluate, dict) or "evaluate" in given:
        return
    judges, endpoints = evaluate.get("judges"), evaluate.get("endpoints")
    servers = judges if isinstance(judges, list) else []
    servers = [*servers, *(endpoints.values() if isinstance(endpoints, dict) else [])]
    for server in servers:
        if isinstance(server, dict) and server.get("api_key_env"):
            raise UserError(
                f"{where}: sends the key in {server['api_key_env']} to {server.get('base_url')}; if you trust it, give "
                "your config.yaml, or the settings of evaluate as key=value"
            )


def _as_overrides(flags: Mapping[str, Any]) -> Iterator[str]:
    """Short flags as ``key=value``."""
    import json

    for flag, value in flags.items():
        if value not in (None, []):
            yield f"{FLAGS[flag]}={json.dumps(value, ensure_ascii=False)}"
    if flags.get("keep") is not None:  # otherwise a threshold in the file would override it
        yield "select.threshold=null"
    if flags.get("scores") is not None:
        yield "rank.method=imported"
