"""TRL's SFTTrainer with the loss that ranking uses, where TRL has no kernel of its own for it.

On GPUs TRL makes logits at response positions alone. Elsewhere it makes them at every position, prompts and padding
included, which on a CPU takes longer than the body of a small model does; this loss is the same and makes only those
that count.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from trl import SFTTrainer

from sealtune.adapters import LanguageModel
from sealtune.losses import token_losses


class ResponseTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that, in one process on a CPU, computes logits at response positions only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        alone = self.accelerator.device.type == "cpu" and self.accelerator.num_processes == 1
        plain = alone and not self.aux_loss_enabled
        self._halves = LanguageModel(self.model) if plain else None

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean loss per response token, in nats; ``num_items_in_batch`` counts those of all accumulated batches."""
        if self._halves is None or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels: Tensor = inputs["labels"][:, 1:]
        learned = labels != -100
        # Rows are padded on the right: under a causal model no real token sees the padding behind it.
        hidden = self._halves.hidden(inputs["input_ids"])[:, :-1][learned]
        total = token_losses(hidden, self._halves.head, labels[learned]).sum()
        return total / (learned.sum() if num_items_in_batch is None else num_items_in_batch)
