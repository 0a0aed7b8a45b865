"""TRL's SFTTrainer with the loss that ranking uses, where TRL has no kernel of its own for it.

On GPUs TRL makes logits at response positions alone. Elsewhere it makes them at every position, prompts and padding
included, which on a CPU takes longer than the body of a small model does; this loss is the same and makes only those
that count.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sealtune.language_model import LanguageModel
from sealtune.losses import token_losses
from sealtune.records import UserError
from sealtune.resumable import ResumableTrainer


class ResponseTrainer(ResumableTrainer):
    """SFTTrainer that, in one process on a CPU, computes logits at response positions only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.halves = self._split()

    def _split(self) -> LanguageModel | None:
        """Body and head of the model, or None where TRL's own loss is to serve."""
        alone = self.accelerator.device.type == "cpu" and self.accelerator.num_processes == 1
        # 4-bit weights: one forward pass in evaluation mode, as LanguageModel makes it, packs them for good into a form
        # that no gradient passes.
        if not alone or self.aux_loss_enabled or getattr(self.model, "is_loaded_in_4bit", False):
            return None
        try:
            return LanguageModel(self.model)
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
