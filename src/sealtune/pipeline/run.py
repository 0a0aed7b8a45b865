"""The context of a run: its configuration, folder and inputs. It knows no stage."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from sealtune.core import distributed
from sealtune.core.config import Config
from sealtune.core.errors import UserError
from sealtune.data.cache import TokenCache
from sealtune.models.load import model_fingerprint
from sealtune.pipeline.folder import RunFolder
from sealtune.pipeline.inputs import RunInputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

MODEL_KEYS = ("model_name_or_path", "model_revision", "attn_implementation", "load_in_4bit", "trust_remote_code")


class Run:
    """A configuration, with its folder and inputs."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.folder = RunFolder(config.output_dir, read_only=not distributed.is_main_process())
        self.inputs = RunInputs(config, TokenCache(self.folder))
        self.stop_requested: int | None = None
        """Number of the signal that requested a stop."""

    def settings(self, *keys: str) -> dict[str, Any]:
        """Part of the config as plain data."""
        return self.config.model_dump(mode="json", include=set(keys))

    def model_settings(self) -> dict[str, Any]:
        """The settings that change what the model computes. The dtype is resolved: ``auto`` depends on the machine."""
        from sealtune.models.load import compute_dtype

        return self.settings(*MODEL_KEYS) | {"dtype": str(compute_dtype(self.config))}

    def row_dependencies(self) -> dict[str, Any]:
        """Everything that determines which candidates are usable and how they are tokenized."""
        return {
            "model": self.inputs.fingerprints()["model"],
            "ranked_by": model_fingerprint(self.config.ranking),
            "datasets": self.inputs.fingerprints()["datasets"],
            **self.settings("max_length", "overlong_rows", "template_markers"),
        }

    def require_same_rows(self, stage: str) -> None:
        """Raise UserError if the candidates or their tokens would differ from those that were ranked."""
        self.folder.outputs_of("rank")
        ranked = self.folder.manifest().stages["rank"].inputs
        changed = [key for key, value in self.row_dependencies().items() if ranked.get(key) != value]
        if changed:
            raise UserError(f"{stage}: {', '.join(changed)} changed since the rows were ranked; rank and select again")

    def load_model(
        self, config: Config | None = None, *, full: bool = False, all_processes: bool = False
    ) -> PreTrainedModel:
        """The pretrained model of ``config`` (default: the run's), loaded by ``sealtune.models.load.load_model``."""
        from sealtune.models.load import load_model

        config = config or self.config
        logger.info("loading %s", config.model_name_or_path)
        return load_model(config, full=full, all_processes=all_processes)
