"""Axolotl: JSON lines with a ``train`` mark at every answer, and a YAML with a ``chat_template`` dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from sealtune.core.files import Folder
from sealtune.core.types import Message
from sealtune.data.render import render
from sealtune.models.target_modules import ALL_LINEAR
from sealtune.pipeline.export_job import ROWS, TEMPLATE, Job, Target, Written, as_dict, calls_with_text_arguments
from sealtune.pipeline.export_settings import alpha_notes, trainer_settings

TRAIN = "train"
"""The key of a turn that says whether it is learned."""
NAMES = {
    "num_train_epochs": "num_epochs",
    "per_device_train_batch_size": "micro_batch_size",
    "lr_scheduler_type": "lr_scheduler",
}
"""Names of transformers that are others in Axolotl."""
TRACKERS = ("wandb", "mlflow", "tensorboard")


def write(job: Job, folder: Folder) -> Written:
    """Write rows.jsonl and axolotl.yaml."""
    folder.write_jsonl(ROWS, _rows(job))
    job.write_template(folder)
    folder.write_text("axolotl.yaml", yaml.safe_dump(settings(job), sort_keys=False, allow_unicode=True))
    return Written(len(job.rows), "axolotl train axolotl.yaml", [*alpha_notes(job), *job.literal_notes()])


def _rows(job: Job) -> Iterator[dict[str, Any]]:
    for row in job.fitted():
        tools = {"tools": [_tool(tool) for tool in row.tools]} if row.tools else {}
        yield {"id": row.id, "messages": [_turn(message) for message in row.messages], **tools}


def _turn(message: Message) -> dict[str, Any]:
    """A turn; arguments of calls are JSON text, which Axolotl parses, since Arrow has one type for all of them."""
    turn = as_dict(message)
    if calls := message.fields.get("tool_calls"):
        turn["tool_calls"] = calls_with_text_arguments(calls)
    return turn | ({TRAIN: message.train} if message.role == "assistant" else {})


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool; its parameters are JSON text, likewise."""
    function = tool.get("function")
    if not isinstance(function, Mapping) or "parameters" not in function:
        return dict(tool)
    return {**tool, "function": {**function, "parameters": json.dumps(function["parameters"])}}


def settings(job: Job) -> dict[str, Any]:
    """The content of axolotl.yaml."""
    config = job.config
    shared = trainer_settings(job, len(job.rows))
    ours = {"report_to"} | ({"max_steps"} if config.tune.max_steps < 0 else set())
    training = {NAMES.get(name, name): value for name, value in shared.items() if name not in ours}
    return {
        "base_model": job.model,
        **({"revision_of_model": config.model_revision} if config.model_revision else {}),
        **({"trust_remote_code": True} if config.trust_remote_code else {}),
        **({"attn_implementation": config.attn_implementation} if config.attn_implementation else {}),
        **_adapter(job),
        "datasets": [_dataset(job)],
        **_end_of_turn(job),
        "sequence_len": job.max_length,
        "excess_length_strategy": "drop" if config.overlong_rows == "drop" else "truncate",
        "sample_packing": False,
        "val_set_size": 0,
        "output_dir": "output",
        "optimizer": "adamw_torch",
        **training,
        "bf16": job.dtype == "bfloat16",
        "fp16": job.dtype == "float16",
        **{f"use_{name}": True for name in config.tune.report_to if name in TRACKERS},
    }


def _dataset(job: Job) -> dict[str, Any]:
    own = {"chat_template": "jinja", "chat_template_jinja": TEMPLATE}
    return {
        "path": ROWS,
        "ds_type": "json",
        "type": "chat_template",
        **(own if job.lacks_template else {"chat_template": "tokenizer_default"}),
        "field_messages": "messages",
        "field_tools": "tools",
        "message_property_mappings": {"role": "role", "content": "content"},
        "message_field_training": TRAIN,
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    }


def _end_of_turn(job: Job) -> dict[str, Any]:
    """The token that ends an answer, which Axolotl does not know if it is another than the end of text."""
    rendered = render(job.tokenizer, [Message("user", "Hello."), Message("assistant", "Hello.")])
    answer = rendered.responses[-1]
    token = rendered.text[answer.end : answer.stop].strip()
    return {"eot_tokens": [token]} if token and token != job.tokenizer.eos_token else {}


def _adapter(job: Job) -> dict[str, Any]:
    tune, four_bit = job.config.tune, job.config.load_in_4bit
    if not tune.use_peft:
        return {}
    layers = {"lora_target_linear": True} if job.layers == ALL_LINEAR else {"lora_target_modules": job.layers}
    return {
        **({"load_in_4bit": True} if four_bit else {}),
        "adapter": "qlora" if four_bit else "lora",
        "lora_r": tune.lora_r,
        "lora_alpha": round(tune.lora_alpha),
        "lora_dropout": tune.lora_dropout,
        **layers,
    }


TARGET = Target("Axolotl", write)
