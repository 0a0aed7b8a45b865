"""TRL's SFTTrainer with checkpoints of our own: no pickle, whole or not at all, and the same bits after a resume.

transformers keeps optimizer, schedule and random numbers as pickles. It also draws the order of rows that are grouped
by length from the random numbers of the moment, so one that goes on in a later epoch would meet other rows there. Here
seed and epoch decide on it, so that a tuning may go on with more or fewer processes, too.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerState
from trl import SFTTrainer

from sealtune.core import distributed
from sealtune.core.checkpoints import Checkpoint
from sealtune.core.console import say
from sealtune.core.errors import UserError
from sealtune.data.batches import Batches
from sealtune.data.encoded import Encoded
from sealtune.models.causal_lm import CausalLM
from sealtune.models.losses import token_losses
from sealtune.models.state_dict import check_shapes, restoring

if TYPE_CHECKING:
    from sealtune.core.checkpoints import Checkpointer


class ResumableTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer whose checkpoints are written by a checkpointer."""

    checkpointer: Checkpointer
    resumed: Checkpoint | None = None
    rows: Encoded
    """What is trained on, the same as the trainer's data set."""

    def train_guarded(self, checkpointer: Checkpointer, resume: Checkpoint | None) -> None:
        """Train, from ``resume`` on. Raises StoppedError where the checkpointer was asked to stop."""
        self.checkpointer, self.resumed = checkpointer, resume
        self.add_callback(_Moments(checkpointer))
        if self._is_spread:
            say("tune: DeepSpeed, and FSDP of whole models, keep the optimizer in parts, so no checkpoints are saved")
        if resume is None:
            self.train()
            return
        known = {field.name for field in dataclasses.fields(TrainerState)}
        with restoring():
            state = {name: value for name, value in resume.rest["trainer"].items() if name in known}
        folder = Path(self.args.output_dir)  # from here the trainer takes its counters, from us the rest
        (folder / "trainer_state.json").write_text(json.dumps(state | {"log_history": resume.records}), "utf-8")
        self.train(resume_from_checkpoint=str(folder))

    @property
    def _batch(self) -> int:
        """Rows of a step, in all processes together."""
        args = self.args
        return int(args.per_device_train_batch_size * args.gradient_accumulation_steps * distributed.num_processes())

    def _get_train_sampler(self, train_dataset: Any = None) -> RowOrder:
        return RowOrder(Batches(self.rows, self._batch, self.args.seed))

    # -- what the trainer calls to save and to load ------------------------------------------------------------------

    @property
    def _is_spread(self) -> bool:
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._is_spread:
            self.checkpointer.save(Checkpoint(self.state.global_step, {}, []), self.state.max_steps)
            return
        counters = dataclasses.asdict(self.state)
        records = counters.pop("log_history")
        optimizer = self.optimizer.state_dict()
        rest = {"trainer": counters, "groups": optimizer["param_groups"], "scheduler": self.lr_scheduler.state_dict()}
        rest |= {"batch": self._batch}
        if self.accelerator.scaler is not None:
            rest |= {"scaler": self.accelerator.scaler.state_dict()}
        state: dict[str, Tensor] = {f"parameter.{name}": parameter for name, parameter in self._learned()}
        for i, moments in optimizer["state"].items():
            state |= {f"optimizer.{i}.{name}": value for name, value in moments.items()}
        state |= {f"random.{name}": value for name, value in random_state().items()}
        self.checkpointer.save(Checkpoint(self.state.global_step, state, records, rest), self.state.max_steps)

    @torch.no_grad()
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        saved, learned = self._saved("parameter"), dict(self._learned())
        with restoring():
            check_shapes(saved, learned)
            for name, parameter in learned.items():
                parameter.copy_(saved[name])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.resumed is None:
            return
        moments: dict[int, dict[str, Tensor]] = {}
        with restoring():
            for name, value in self._saved("optimizer").items():
                number, _, kind = name.partition(".")
                moments.setdefault(int(number), {})[kind] = value
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            for i, kinds in moments.items():
                check_shapes(kinds, {kind: parameters[i] for kind, value in kinds.items() if value.dim()})
            self.optimizer.load_state_dict({"state": moments, "param_groups": self.resumed.rest["groups"]})
            self.lr_scheduler.load_state_dict(self.resumed.rest["scheduler"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        if self.resumed is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(self.resumed.rest["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        set_random_state(self._saved("random"))

    def _learned(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def _saved(self, kind: str) -> dict[str, Tensor]:
        """Tensors of one kind in the checkpoint that it goes on from; none where there is no checkpoint."""
        state = self.resumed.state if self.resumed else {}
        return {name.removeprefix(f"{kind}."): value for name, value in state.items() if name.startswith(f"{kind}.")}


class RowOrder(Sampler[int]):
    """The rows of an epoch, neighbours in length together; ``set_epoch`` says of which."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Of this epoch from now on; the trainer and accelerate call it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.batches.encoded)

    def __iter__(self) -> Iterator[int]:
        return iter(self.batches.order(self.epoch).tolist())


class _Moments(TrainerCallback):  # type: ignore[misc]
    """Tells the trainer when to save."""

    def __init__(self, checkpointer: Checkpointer) -> None:
        self.checkpointer = checkpointer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = self.checkpointer.should_save(state.global_step, state.max_steps)


def random_state() -> dict[str, Tensor]:
    """Where torch's random numbers stand, on the CPU and on the accelerator."""
    state = {"cpu": torch.get_rng_state()}
    if torch.accelerator.is_available():
        state["accelerator"] = torch.get_device_module().get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor]) -> None:
    """Take back what :func:`random_state` gave, as far as it is there."""
    if "cpu" in state:
        torch.set_rng_state(state["cpu"])
    if "accelerator" in state and torch.accelerator.is_available():
        torch.get_device_module().set_rng_state(state["accelerator"])


class ResponseTrainer(ResumableTrainer):
    """SFTTrainer that, in one process on a CPU, computes logits at response positions only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.halves = self._split()

    def _split(self) -> CausalLM | None:
        """Body and head of the model, or None where TRL's own loss is to serve."""
        alone = self.accelerator.device.type == "cpu" and self.accelerator.num_processes == 1
        # 4-bit weights: one forward pass in evaluation mode, as CausalLM makes it, packs them for good into a form
        # that no gradient passes.
        if not alone or self.aux_loss_enabled or getattr(self.model, "is_loaded_in_4bit", False):
            return None
        try:
            return CausalLM(self.model)
        except UserError:  # a family whose logits are more than head(body(tokens)); TRL knows some of them
            return None

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean loss per response token, a scalar in nats, of ``input_ids`` and ``labels`` (B, T).

        ``num_items_in_batch`` counts the response tokens of all accumulated batches. With ``return_outputs``, which
        evaluation asks for, TRL's own loss and its outputs.
        """
        if self.halves is None or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels: Tensor = inputs["labels"][:, 1:]
        learned = labels != -100
        # Rows are padded on the right: under a causal model no real token sees the padding behind it.
        with self.accelerator.autocast():
            hidden = self.halves.hidden(inputs["input_ids"])[:, :-1][learned]
            total = token_losses(hidden, self.halves.head, labels[learned]).sum()
        return total / (learned.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
