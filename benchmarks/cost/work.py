"""What each part of the pipeline costs in counted work, on a model of two layers: the same figures on every machine.

Operations of matrix products, passes through the model, tokens that went through it (padding included), and the
largest number of bytes of tensors at one time. ``tests/benchmarks/test_work.py`` compares them with the stored file, so
that a change which does more work fails there, whatever the speed of the machine; a change which does less is stored:

    python benchmarks/cost/work.py --output benchmarks/results/work.json
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks.lib.reports import provenance, write_report
from benchmarks.lib.tiny_inputs import WORDS, save_model

SETTINGS = {"dtype": "float32", "max_length": 64, "attn_implementation": "eager"}
LORA = {"lora_target_modules": "all-linear", "per_device_train_batch_size": 8}
STEPS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = count_all(Path(folder))
    for name, found in work.items():
        print(f"{name:12}" + "".join(f"  {value:>14,} {figure}" for figure, value in found.items()))
    write_report(provenance(args) | {"work": work}, args.output)


def count_all(folder: Path) -> dict[str, dict[str, int]]:
    """The work of each part, by its name; a model is written into the folder."""
    save_model(folder)
    return {name: count(partial(part, str(folder))) for name, part in PARTS.items()}


def count(call: Callable[[], Any]) -> dict[str, int]:
    """The work of a call."""
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.lib.operation_counter import LiveBytes

    with counted_passes() as passes, FlopCounterMode(display=False) as operations, LiveBytes() as held:
        call()
    return {"operations": operations.get_total_flops(), **passes, "peak_bytes": held.peak}


@contextmanager
def counted_passes() -> Iterator[dict[str, int]]:
    """Yields the number of passes through the body of the model, and of the tokens in them, so far."""
    from transformers import LlamaModel

    counted, forward = {"passes": 0, "tokens": 0}, LlamaModel.forward

    def counting(self, input_ids, *rest, **inputs):
        counted["passes"] += 1
        counted["tokens"] += input_ids.numel()
        return forward(self, input_ids, *rest, **inputs)

    with patch.object(LlamaModel, "forward", counting):
        yield counted


# -- the parts ---------------------------------------------------------------------------------------------------------


def rows(n: int, seed: int) -> list[dict[str, str]]:
    chance = random.Random(seed)
    words = lambda: " ".join(chance.choices(WORDS, k=chance.randint(3, 12)))  # noqa: E731
    return [{"id": f"{seed}-{i}", "prompt": words(), "response": words()} for i in range(n)]


def safe_rows() -> list[dict[str, str]]:
    kinds = ("harmful", "harmless")
    return [row | {"kind": kinds[i % 2]} for i, row in enumerate(rows(24, 2))]


def rank(model: str, **block: Any) -> None:
    from sealtune import api

    api.rank(model, rows(64, 1), safe_rows(), rank={"num_train_epochs": 2, **LORA, **block}, **SETTINGS)


def tune(model: str, guard: str) -> None:
    from sealtune import api

    settings = {"max_steps": STEPS, "guard": guard, **LORA}
    api.tune(model, rows(64, 1), safe=None if guard == "off" else safe_rows(), tune=settings, **SETTINGS)


def loaded(model: str) -> tuple[Any, Any]:
    from sealtune.core.config_io import build_config
    from sealtune.models.load import load_model
    from sealtune.pipeline.inputs import RunInputs

    config = build_config({"model_name_or_path": model, **SETTINGS})
    return load_model(config), RunInputs(config).load_tokenizer()


def likelihood(model: str) -> None:
    """How likely refusals are, of 64 prompts."""
    from sealtune.data.encode import encode_prompt
    from sealtune.models.openings import encode_openings, refusal_log_probs

    network, tokenizer = loaded(model)
    prompts = [encode_prompt(tokenizer, row["prompt"], opened=True) for row in rows(64, 3)]
    refusal_log_probs(network, prompts, encode_openings(tokenizer))


def answers(model: str) -> None:
    """Up to eight tokens of the answers to 32 prompts."""
    from sealtune import api

    prompts = [{"prompt": row["prompt"], "kind": "harmful"} for row in rows(32, 4)]
    api.evaluate(*loaded(model), prompts, max_new_tokens=8)


PARTS: dict[str, Callable[[str], None]] = {
    "probe": lambda model: rank(model, method="probe"),
    "seal": lambda model: rank(model, method="seal"),
    "tune": lambda model: tune(model, "off"),
    "guard": lambda model: tune(model, "teach"),
    "likelihood": likelihood,
    "answers": answers,
}


if __name__ == "__main__":
    main()
