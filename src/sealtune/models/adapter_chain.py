"""From an adapter's folder down to its base: an adapter may stand on another one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sealtune.core.config import Config
from sealtune.core.errors import UserError
from sealtune.models import adapter_folder
from sealtune.models.combined_adapter import is_plain_lora
from sealtune.models.sources import is_packaged, resolve_model


class Chain(NamedTuple):
    """Adapters, each standing on the next one, and the config of the full model below them."""

    adapters: list[Path]
    base: Config


def adapter_of(config: Config) -> Path | None:
    """The folder of the adapter that the config names as its model; None if it names a full model."""
    name = config.model_name_or_path
    path = Path(name).expanduser()
    if path.exists() or is_packaged(name):  # a GGUF file is not converted for this answer
        return path if adapter_folder.is_adapter(path) else None
    return adapter_folder.hub_adapter(resolve_model(name), config.model_revision)


def chain_of(config: Config) -> Chain:
    """The adapters that the config names as its model, the uppermost first, and what they stand on.

    Raises:
        UserError: A folder names no base that exists, or the bases lead in a circle.
    """
    adapters: list[Path] = []
    while (adapter := adapter_of(config)) is not None:
        if adapter.resolve() in [above.resolve() for above in adapters]:
            raise UserError(f"model_name_or_path: {adapters[0]} is an adapter whose bases lead back to {adapter}")
        adapters.append(adapter)
        config = _named_base(config, adapter)
    return Chain(adapters, config)


def base_of(config: Config, adapter: Path) -> Config:
    """The config of the model that the adapter stands on. Raises UserError if its folder names none that exists."""
    chain_of(config)
    return _named_base(config, adapter)


def combinable(config: Config) -> Chain | None:
    """The adapters that the config names as its model, if all can be combined with another LoRA; otherwise None."""
    chain = chain_of(config)
    return chain if chain.adapters and all(map(is_plain_lora, chain.adapters)) else None


def _named_base(config: Config, adapter: Path) -> Config:
    base = adapter_folder.read_base(adapter)
    return config.model_copy(update={"model_name_or_path": base.name, "model_revision": base.revision})
