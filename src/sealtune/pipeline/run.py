"""A run: its configuration, its material, its folder, and the stages that are done in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sealtune.core import distributed
from sealtune.core.checkpoints import Checkpoints
from sealtune.core.config import Config
from sealtune.core.console import say
from sealtune.core.errors import StoppedError, UserError
from sealtune.data.cache import TokenCache
from sealtune.pipeline.environment import git_revision, machine, measured, versions
from sealtune.pipeline.folder import RunFolder
from sealtune.pipeline.inputs import Material
from sealtune.pipeline.stages import STAGES, Stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODEL_KEYS = ("model_name_or_path", "model_revision", "attn_implementation", "load_in_4bit", "trust_remote_code")
ROW_KEYS = ("model", "ranked_by", "datasets", "max_length", "overlong_rows")
"""What decides the tokens of a row."""


class Run:
    """A configuration, its material and its folder."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.folder = RunFolder(config.output_dir, keeps=distributed.is_main_process())
        self.stop_requested: int | None = None
        self.material = Material(config, TokenCache(self.folder))

    def stage(self, name: str, *, force: bool = False) -> None:
        """Do one stage, unless it was finished from the same inputs and its files are as it left them."""
        stage = STAGES[name]
        if stage.shared:
            self._stage(name, stage, force=force)
        elif distributed.is_main_process():
            with distributed.main_process_only():
                self._stage(name, stage, force=force)
        distributed.barrier()  # the next stage reads what this one wrote

    def _stage(self, name: str, stage: Stage, *, force: bool) -> None:
        self.folder.prepare()
        inputs = stage.inputs(self)
        if distributed.all_reduce_max(not force and self.folder.is_done(name, inputs)):
            say(f"{name}: finished before from the same inputs; skipped")
            return
        about = self._about()
        with measured() as cost:
            outcome = stage.work(self, inputs)
        self.folder.finish_stage(name, inputs, outcome.files, cost | dict(outcome.facts), about)
        Checkpoints(self.folder, name).remove()
        say(f"{name}: finished in {cost['seconds']:.0f} s")
        if self.stop_requested:  # it came when the stage was as good as done
            raise StoppedError(f"stopped after {name}, which is finished; start again to go on", self.stop_requested)

    def adopt(self, name: str, lender: RunFolder) -> None:
        """Take a stage over from another run's folder, if it was finished there from the same inputs."""
        self.folder.prepare()
        if self.folder.adopt(name, STAGES[name].inputs(self), lender, self._about()):
            say(f"{name}: the same in {lender.root}; taken from there")

    def _about(self) -> dict[str, Any]:
        return {
            "sealtune": versions()["sealtune"],
            "git_revision": git_revision(),
            "model": self.config.model_name_or_path,
            "seed": self.config.seed,
            "config": self.config.model_dump(mode="json"),
            "versions": versions(),
            "machine": machine(),
        }

    def check(self) -> None:
        """Read all that later stages will need, so that a wrong path is told before hours of ranking, not after."""
        from sealtune.evaluation import harness, judging
        from sealtune.ranking import methods

        methods.load_ranker(self.config.rank.method)
        if self.config.select.keep_ratio == "auto" and self.config.select.threshold is None:
            methods.require_estimates_unsafe_share(self.config.rank.method)
        judging.check(self.config.evaluate)
        harness.check(self.config.evaluate)
        _ = self.material.prompts
        self.material.labels()
        _ = self.material.mixed, self.config.evaluate.held_out_datasets and self.material.held_out

    def require_same_rows(self, stage: str) -> None:
        """Raise UserError where the rows are no longer those that were ranked, or would make other tokens."""
        self.folder.outputs_of("rank")
        ranked = self.folder.manifest()["stages"]["rank"]["inputs"]
        now = STAGES["rank"].inputs(self)
        differing = [key for key in ROW_KEYS if ranked.get(key) != now[key]]
        if differing:
            raise UserError(
                f"{stage}: {', '.join(differing)} changed since the rows were ranked; rank and select again"
            )

    def settings(self, *keys: str) -> dict[str, Any]:
        """Part of the config as plain data."""
        return self.config.model_dump(mode="json", include=set(keys))

    def model_settings(self) -> dict[str, Any]:
        """What decides how the model computes; ``auto`` means another dtype on another machine."""
        from sealtune.models.load import compute_dtype

        return self.settings(*MODEL_KEYS) | {"dtype": str(compute_dtype(self.config))}

    def load_model(
        self, config: Config | None = None, *, full: bool = False, everywhere: bool = False
    ) -> PreTrainedModel:
        """The untouched model; with ``config``, the one that it names. The rest is as of ``models.load_model``."""
        from sealtune.models.load import load_model

        config = config or self.config
        say(f"loading {config.model_name_or_path}")
        return load_model(config, full=full, everywhere=everywhere)
