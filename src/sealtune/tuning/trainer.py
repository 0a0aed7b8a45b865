"""TRL's SFTTrainer with safe checkpoints: no pickle, written atomically, and resumed bit for bit.

transformers pickles the optimizer, the scheduler and the RNG state. It also draws the order of the rows, if they are
grouped by length, from the current RNG state, so a run resumed in a later epoch would see other rows. Here, seed and
epoch determine the order; so a run can also be resumed with another number of processes.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import TrainerState
from trl import SFTTrainer

from sealtune.core.checkpoints import Checkpoint
from sealtune.core.errors import UserError
from sealtune.data.batches import Batches
from sealtune.data.encoded import Encoded
from sealtune.models.causal_lm import CausalLM
from sealtune.models.losses import token_losses
from sealtune.models.state_dict import State, check_shapes, restoring, strip_prefix
from sealtune.tuning.callbacks import SaveCallback
from sealtune.tuning.sft_config import effective_batch_size

if TYPE_CHECKING:
    from sealtune.core.checkpoints import Checkpointer

logger = logging.getLogger(__name__)


class ResumableTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer whose checkpoints are written by a checkpointer.

    Attributes:
        rows: The rows of the training dataset.
        checkpointer: Writes checkpoints.
        checkpoint: The checkpoint that the training resumes from; None to start at the first step.
    """

    rows: Encoded
    checkpointer: Checkpointer
    checkpoint: Checkpoint | None = None

    def train_with_checkpoints(self, checkpointer: Checkpointer, checkpoint: Checkpoint | None) -> None:
        """Train, resuming from ``checkpoint`` if it is given. Raises StoppedError after a signal."""
        self.checkpointer, self.checkpoint = checkpointer, checkpoint
        self.add_callback(SaveCallback(checkpointer))
        if self._optimizer_is_sharded:
            logger.warning("tune: DeepSpeed and FSDP of a full model shard the optimizer; no checkpoints are saved")
        self.train(resume_from_checkpoint=self._write_trainer_state(checkpoint) if checkpoint else None)

    def _write_trainer_state(self, checkpoint: Checkpoint) -> str:
        """The folder of the file that the trainer reads its counters from. The hooks below restore the rest."""
        known = {field.name for field in dataclasses.fields(TrainerState)}
        with restoring():
            state = {name: value for name, value in checkpoint.rest["trainer_state"].items() if name in known}
        file = Path(self.args.output_dir) / "trainer_state.json"
        file.write_text(json.dumps(state | {"log_history": checkpoint.records}), encoding="utf-8")
        return str(self.args.output_dir)

    @property
    def _optimizer_is_sharded(self) -> bool:
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return EpochSampler(Batches(self.rows, effective_batch_size(self.args), self.args.seed))

    # -- hooks that the trainer calls to save and to resume ----------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        checkpoint = Checkpoint(self.state.global_step, {}, [])
        if not self._optimizer_is_sharded:
            optimizer = self.optimizer.state_dict()
            tensors = self._tensors(optimizer["state"])
            values = self._values(optimizer["param_groups"])
            checkpoint = Checkpoint(self.state.global_step, tensors, self.state.log_history, values)
        self.checkpointer.save(checkpoint, self.state.max_steps)

    def _tensors(self, moments: Mapping[int, Mapping[str, Tensor]]) -> State:
        state: State = {f"parameter.{name}": parameter for name, parameter in trainable_parameters(self.model)}
        state |= {f"optimizer.{i}.{name}": value for i, found in moments.items() for name, value in found.items()}
        return state | {f"rng.{name}": value for name, value in rng_state().items()}

    def _values(self, param_groups: list[dict[str, Any]]) -> dict[str, Any]:
        counters = dataclasses.asdict(self.state)
        del counters["log_history"]
        values = {
            "trainer_state": counters,
            "batch_size": effective_batch_size(self.args),
            "param_groups": param_groups,
            "scheduler": self.lr_scheduler.state_dict(),
        }
        scaler = self.accelerator.scaler
        return values if scaler is None else values | {"scaler": scaler.state_dict()}

    @torch.no_grad()
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        saved, parameters = self._saved("parameter"), dict(trainable_parameters(self.model))
        with restoring():
            check_shapes(saved, parameters)
            for name, parameter in parameters.items():
                parameter.copy_(saved[name])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.checkpoint is None:
            return
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        with restoring():
            moments = _moments_by_parameter(self._saved("optimizer"), parameters)
            self.optimizer.load_state_dict({"state": moments, "param_groups": self.checkpoint.rest["param_groups"]})
            self.lr_scheduler.load_state_dict(self.checkpoint.rest["scheduler"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        if self.checkpoint is not None and self.accelerator.scaler is not None:
            with restoring():
                self.accelerator.scaler.load_state_dict(self.checkpoint.rest["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with restoring():
            set_rng_state(self._saved("rng"))

    def _saved(self, kind: str) -> State:
        """The tensors of one kind in the checkpoint; none if training starts at the first step."""
        return strip_prefix(f"{kind}.", self.checkpoint.state) if self.checkpoint else {}


def trainable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The names and values of the weights that are trained."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _moments_by_parameter(saved: State, parameters: list[nn.Parameter]) -> dict[int, State]:
    """The optimizer's moments by the index of their parameter. Raises ValueError if a shape does not fit."""
    moments: dict[int, State] = {}
    for name, value in saved.items():
        index, _, moment = name.partition(".")
        moments.setdefault(int(index), {})[moment] = value
    for i, found in moments.items():
        check_shapes(found, {name: parameters[i] for name, value in found.items() if value.dim()})
    return moments


class EpochSampler(Sampler[int]):
    """The rows of an epoch, grouped by length. The trainer and accelerate call ``set_epoch``."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sample the rows of this epoch from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.batches.encoded)

    def __iter__(self) -> Iterator[int]:
        return iter(self.batches.order(self.epoch).tolist())


def rng_state() -> State:
    """The state of torch's random number generators, on the CPU and on the accelerator if there is one."""
    state = {"cpu": torch.get_rng_state()}
    if torch.accelerator.is_available():
        state["accelerator"] = torch.get_device_module().get_rng_state()
    return state


def set_rng_state(state: State) -> None:
    """Restore what ``rng_state`` returned; generators that ``state`` or this machine lacks stay as they are."""
    if "cpu" in state:
        torch.set_rng_state(state["cpu"])
    if "accelerator" in state and torch.accelerator.is_available():
        torch.get_device_module().set_rng_state(state["accelerator"])


class ResponseTrainer(ResumableTrainer):
    """ResumableTrainer that, in one process on a CPU, computes logits at response tokens only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.causal_lm = self._split_model()

    def _split_model(self) -> CausalLM | None:
        """Body and head of the model; None to compute TRL's loss."""
        single_cpu = self.accelerator.device.type == "cpu" and self.accelerator.num_processes == 1
        # With 4-bit weights, the forward pass in CausalLM's check, in evaluation mode, would pack the weights for good
        # into a form that passes no gradient.
        if not single_cpu or self.aux_loss_enabled or getattr(self.model, "is_loaded_in_4bit", False):
            return None
        try:
            return CausalLM(self.model)
        except UserError:  # a family whose logits are not head(body(tokens)); TRL supports some of them
            return None

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean loss per response token, a scalar in nats.

        Args:
            model: The model as wrapped by the trainer.
            inputs: ``input_ids`` and ``labels``, (B, T); ``row_weights``, (B,), if the rows are weighted.
            return_outputs: Return TRL's loss and outputs, as evaluation needs them.
            num_items_in_batch: Number of response tokens in all accumulated batches; None for this one alone.
        """
        weights: Tensor | None = inputs.pop("row_weights", None)
        if return_outputs or (self.causal_lm is None and weights is None):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels: Tensor = inputs["labels"][:, 1:]
        mask = labels != -100
        # No attention mask: rows are padded on the right, and a causal model does not look ahead.
        with self.accelerator.autocast():
            if self.causal_lm is None:
                logits = model(input_ids=inputs["input_ids"], use_cache=False).logits[:, :-1][mask]
                losses = nn.functional.cross_entropy(logits.float(), labels[mask], reduction="none")
            else:
                hidden = self.causal_lm.hidden_states(inputs["input_ids"])[:, :-1][mask]
                losses = token_losses(hidden, self.causal_lm.head, labels[mask])
        total = losses.sum() if weights is None else (losses * weights[mask.nonzero()[:, 0]]).sum()
        if num_items_in_batch is None:
            return total / mask.sum().clamp(min=1)
        # The tokens of all processes are counted, and the gradients of the processes are averaged.
        return total * self.accelerator.num_processes / num_items_in_batch
