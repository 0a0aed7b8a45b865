"""From the words of a command line to a config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sealtune.core.config import Config


def load_config(words: list[str], file: Path | None = None, *, asks: bool = False, **flags: Any) -> Config:
    """The config of a command line. Without a file or a model it is that of the run folder's manifest.

    Args:
        words: a YAML file and ``key=value``, in any order.
        file: the YAML file, if it is not among the words.
        asks: whether servers will be asked, so that keys may be sent.
        flags: short flags and their values.

    Raises:
        UserError: words that are neither a YAML file nor key=value, or a config that is not valid.
    """
    from sealtune.core.config_io import apply_overrides, build_config, read_yaml
    from sealtune.core.errors import UserError
    from sealtune.pipeline.folder import RunFolder

    overrides = [word for word in words if "=" in word] + list(_as_overrides(flags))
    files = [Path(word) for word in words if "=" not in word] + ([file] if file else [])
    if len(files) > 1 or any(f.suffix not in (".yaml", ".yml") for f in files):
        raise UserError(f"{' '.join(map(str, files))}: give one config.yaml, and settings as key=value")
    if files:
        values, where = read_yaml(files[0]), str(files[0])
    else:
        given = apply_overrides({}, overrides)
        folder = RunFolder(str(given.get("output_dir") or ""))
        values = {} if "model_name_or_path" in given else folder.manifest().config
        where = "command line" if not values else str(folder.path("manifest.json"))
        _require_trust(values, given, where, asks=asks)
        if not values and "model_name_or_path" not in given:
            raise UserError("no config: give a config.yaml, or --model --data --safe --out, or --out of an earlier run")
    return build_config(apply_overrides(values, overrides), where)


def _require_trust(values: Mapping[str, Any], given: Mapping[str, Any], where: str, *, asks: bool) -> None:
    """Raise UserError where a run folder, which may come from others, wants what only its user may ask for."""
    from sealtune.core.errors import UserError

    if values.get("trust_remote_code") and "trust_remote_code" not in given:
        raise UserError(
            f"{where}: wants to run code that comes with the model; say trust_remote_code=true where you trust it, "
            "else trust_remote_code=false"
        )
    evaluate = values.get("evaluate")
    if not asks or not isinstance(evaluate, dict) or "evaluate" in given:
        return
    judges, served = evaluate.get("judges"), evaluate.get("endpoints")
    servers = [*(judges if isinstance(judges, list) else []), *(served.values() if isinstance(served, dict) else [])]
    for server in servers:
        if isinstance(server, dict) and server.get("api_key_env"):
            raise UserError(
                f"{where}: wants to send the key in {server['api_key_env']} to {server.get('base_url')}; give the "
                "config.yaml that says so, or the setting of evaluate as key=value, where you trust it"
            )


def _as_overrides(flags: dict[str, Any]) -> Iterator[str]:
    """Short flags as the settings they stand for."""
    import json

    keys = {
        "model": "model_name_or_path",
        "data": "datasets",
        "safe": "safe_datasets",
        "out": "output_dir",
        "keep": "select.keep_ratio",
    }
    for flag, value in flags.items():
        if value not in (None, []):
            yield f"{keys[flag]}={json.dumps(value, ensure_ascii=False)}"
    if flags.get("keep") is not None:  # a threshold of the file would win over it
        yield "select.threshold=null"
