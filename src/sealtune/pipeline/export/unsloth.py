"""Unsloth: JSON lines and a script that masks all but one answer of each row itself.

Unsloth's ``train_on_responses_only`` learns every answer of a conversation. A row here ends with an answer that is
learned, and the script gives the trainer token ids and labels, which Unsloth takes as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from string import Template
from typing import Any

from sealtune.core.files import Folder
from sealtune.data.reasons import plural
from sealtune.pipeline.export_job import ROWS, TEMPLATE, Job, Target, Written, as_dict, one_per_answer
from sealtune.pipeline.export_settings import as_arguments, model_settings, trainer_settings

SCRIPT = Template('''"""Fine-tune on the rows kept by sealtune: python train.py. README.md says what is not carried."""

from unsloth import FastLanguageModel  # isort: skip  (first: it changes the libraries below)

import json
from os.path import commonprefix
from pathlib import Path

import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq
from trl import SFTConfig, SFTTrainer

HERE = Path(__file__).parent
MAX_LENGTH = $max_length
MODEL = dict(
    max_seq_length=MAX_LENGTH,
$model)
ADAPTER = $adapter
SETTINGS = dict(
    output_dir=str(HERE / "output"),
    max_length=MAX_LENGTH,
$settings)


def encode(row, tokenizer):
    """Token ids, and labels that are -100 outside the answer and the token that ends it."""
    shared = dict(tools=row.get("tools"), tokenize=False)
    asked = tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True, **shared)
    text = tokenizer.apply_chat_template(row["messages"], **shared).rstrip()
    start = len(commonprefix([asked, text]))
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = found["input_ids"][:MAX_LENGTH]
    labels = [token if at >= start else -100 for token, (at, _) in zip(ids, found["offset_mapping"])]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


def make_trainer(**changes):
    """The trainer; ``changes`` are further settings of SFTConfig."""
    model, tokenizer = FastLanguageModel.from_pretrained(**MODEL)
$template    if ADAPTER is not None:
        model = FastLanguageModel.get_peft_model(model, **ADAPTER)
    with (HERE / "$rows").open(encoding="utf-8") as lines:
        rows = [encode(json.loads(line), tokenizer) for line in lines]
    return SFTTrainer(
        model=model,
        processing_class=tokenizer,
        args=SFTConfig(**SETTINGS | changes),
        train_dataset=Dataset.from_list(rows),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )


if __name__ == "__main__":
    trainer = make_trainer()
    trainer.train()
    trainer.save_model()
''')


def write(job: Job, folder: Folder) -> Written:
    """Write rows.jsonl and train.py."""
    count, split = 0, 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal count, split
        for row in job.fitted():
            answers = list(one_per_answer(row))
            count, split = count + len(answers), split + (len(answers) > 1)
            about = {"id": row.id, **({"tools": list(row.tools)} if row.tools else {})}
            yield from (about | {"messages": [as_dict(message) for message in messages]} for messages in answers)

    folder.write_jsonl(ROWS, rows())
    job.write_template(folder)
    folder.write_text("train.py", _script(job, count))
    notes = [f"{plural(split, 'conversation')} split, one row for each learned answer"] if split else []
    return Written(count, "python train.py", [*notes, *job.literal_notes()])


def _script(job: Job, examples: int) -> str:
    tune = job.config.tune
    own = model_settings(job)
    own.pop("attn_implementation", None)  # Unsloth has its own attention
    model = {
        "model_name": job.model,
        "dtype": own.pop("dtype"),
        "load_in_4bit": job.config.load_in_4bit,
        "full_finetuning": not tune.use_peft,
    } | own
    precision = {"bf16": job.dtype == "bfloat16", "fp16": job.dtype == "float16"}
    template = f'    tokenizer.chat_template = (HERE / {TEMPLATE!r}).read_text(encoding="utf-8")\n'
    return SCRIPT.substitute(
        max_length=job.max_length,
        model=_with_torch_dtype(as_arguments(model), job.dtype),
        adapter=f"dict(\n{as_arguments(_adapter(job))})" if tune.use_peft else "None",
        settings=as_arguments(trainer_settings(job, examples) | precision),
        template=template if job.lacks_template else "",
        rows=ROWS,
    )


def _with_torch_dtype(arguments: str, dtype: str) -> str:
    """Unsloth wants a dtype of torch, not its name."""
    return arguments.replace(f"dtype={dtype!r}", f"dtype=torch.{dtype}", 1)


def _adapter(job: Job) -> dict[str, Any]:
    tune = job.config.tune
    return {
        "r": tune.lora_r,
        "lora_alpha": tune.lora_alpha,
        "lora_dropout": tune.lora_dropout,
        "target_modules": job.layers,
        "bias": "none",
        "use_gradient_checkpointing": "unsloth" if tune.gradient_checkpointing else False,
        "random_state": job.config.seed,
    }


TARGET = Target("Unsloth", write)
