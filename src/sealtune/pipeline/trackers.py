"""Sends the steps of a ranking to experiment trackers, through accelerate; tuning uses TRL's own reporting."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sealtune.core.config import Config
from sealtune.core.distributed import is_main_process
from sealtune.core.errors import UserError
from sealtune.core.sanitize import excerpt

logger = logging.getLogger(__name__)

TRIED = ("trackio", "tensorboard", "wandb", "mlflow")
"""Trackers that are tried in the tests, named like their packages; others that accelerate and transformers know may
work."""
PROJECT = "sealtune"


def require_usable(config: Config) -> None:
    """Raise UserError if a tracker is unknown to who calls it, or its package is missing."""
    if not (config.rank.report_to or config.tune.report_to):
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS
    from transformers.integrations import INTEGRATION_TO_CALLBACK

    _require(config.rank.report_to, "rank.report_to", LOGGER_TYPE_TO_CLASS)
    _require(config.tune.report_to, "tune.report_to", {*INTEGRATION_TO_CALLBACK, "all", "none"})


def _require(names: Sequence[str], key: str, known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{key}: unknown tracker {name!r}; known: {', '.join(sorted(known))}")
        if name in TRIED and importlib.util.find_spec(name) is None:
            raise UserError(f"{key}: {name} is not installed; pip install {name}")


@dataclass
class Trackers:
    """Running trackers. One that fails is named once and gets nothing more: a ranking is worth more than its curves."""

    running: dict[str, Any] = field(default_factory=dict)

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Send the values that are known at a step."""
        known = {f"rank/{name}": value for name, value in values.items() if value is not None}
        for name in [*self.running]:
            self._try(name, lambda tracker: tracker.log(known, step=step))

    def finish(self) -> None:
        """Close them."""
        for name in [*self.running]:
            self._try(name, lambda tracker: tracker.finish())

    def _try(self, name: str, call: Any) -> None:
        try:
            call(self.running[name])
        except Exception as error:  # what a tracker raises is up to it
            del self.running[name]
            logger.warning("rank.report_to: %s stopped: %s", name, excerpt(error, 200))


@contextmanager
def tracking(names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> Iterator[Trackers]:
    """Start these trackers in the main process, and close them in the end.

    Args:
        names: ``trackio``, ``tensorboard``, ``wandb``, ``mlflow``, or others that accelerate knows.
        folder: Where trackers that write files put them.
        settings: What identifies the run; nested values are sent as text.

    Raises:
        UserError: One cannot be started.
    """
    trackers = Trackers()
    try:
        if is_main_process():
            for name in names:
                trackers.running[name] = _start(name, folder, settings)
        yield trackers
    finally:
        trackers.finish()


def _start(name: str, folder: Path, settings: Mapping[str, Any]) -> Any:
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # accelerate's trackers ask it which process is the main one
    kind = LOGGER_TYPE_TO_CLASS[name]
    plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in settings.items()}
    try:
        tracker = kind(PROJECT, str(folder)) if kind.requires_logging_directory else kind(PROJECT)
        if hasattr(tracker, "start"):
            tracker.start()
        tracker.store_init_configuration(plain)
    except Exception as error:  # what a tracker raises is up to it
        raise UserError(f"rank.report_to: {name} does not start: {excerpt(error, 300)}") from None
    return tracker
