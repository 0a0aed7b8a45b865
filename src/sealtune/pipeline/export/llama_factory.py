"""LLaMA-Factory: JSON lines in its ``sharegpt`` form, dataset_info.json and sft.yaml.

Its ``openai`` form would add a line to the system prompts of some releases. If an answer is context only, all
conversations are split and ``mask_history`` is set, which learns the last answer of each.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from sealtune.core.errors import UserError
from sealtune.core.files import Folder
from sealtune.core.types import Message
from sealtune.data.chat_template import THINKING_TAGS
from sealtune.data.reasons import plural
from sealtune.data.turns import THINKING_FIELD
from sealtune.models.target_modules import ALL_LINEAR
from sealtune.pipeline.export_job import ROWS, Job, Target, Written, one_per_answer, tools_as_text
from sealtune.pipeline.export_settings import alpha_notes, trainer_settings

NAME = "sealtune_kept"
"""The dataset in dataset_info.json."""
ROLES = {"user": "human", "assistant": "gpt", "tool": "observation"}
CALLS = "function_call"
ASKING = (ROLES["user"], ROLES["tool"])
INFO = {
    "file_name": ROWS,
    "formatting": "sharegpt",
    "columns": {"messages": "conversations", "system": "system", "tools": "tools"},
    "tags": {
        "role_tag": "from",
        "content_tag": "value",
        "user_tag": ROLES["user"],
        "assistant_tag": ROLES["assistant"],
        "observation_tag": ROLES["tool"],
        "function_tag": CALLS,
        "system_tag": "system",
    },
}
LEFT_OUT = "left out: LLaMA-Factory wants turns that alternate, the user's first, and one system prompt"
TEXT_LOST = "losing the text beside a tool call: LLaMA-Factory has no place for it"
MERGED = "with consecutive turns of a user or of tools, which are joined: LLaMA-Factory wants turns that alternate"


def write(job: Job, folder: Folder) -> Written:
    """Write rows.jsonl, dataset_info.json and sft.yaml."""
    masked = any(row.has_masked_turns for row in job.rows)
    counts = Counter[str]()
    folder.write_jsonl(ROWS, _rows(job, counts, split=masked))
    examples = counts["examples"]
    del counts["examples"]
    if not examples:
        raise UserError(f"all rows are {LEFT_OUT}")
    folder.write_json("dataset_info.json", {NAME: INFO})
    content = settings(job, examples, mask_history=masked)
    folder.write_text("sft.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    notes = [f"{plural(count, 'row')} {note}" for note, count in counts.items()]
    if masked:
        notes.append("conversations are split, one row for each learned answer: mask_history learns the last one")
    notes.append(
        "LLaMA-Factory has chat templates of its own: add `template: NAME` of your model's family to sft.yaml; without "
        "it the tokenizer's is converted"
    )
    return Written(examples, "llamafactory-cli train sft.yaml", [*notes, *alpha_notes(job), *job.literal_notes()])


def _rows(job: Job, counts: Counter[str], *, split: bool) -> Iterator[dict[str, Any]]:
    for row in job.as_read():
        for messages in one_per_answer(row) if split else [row.messages]:
            converted = convert(messages)
            if converted is None:
                counts[LEFT_OUT] += 1
                continue
            counts["examples"] += 1
            counts.update(_losses(messages, converted["conversations"]))
            yield {"id": row.id, **converted, "tools": tools_as_text(row.tools) or ""}


def convert(messages: Sequence[Message]) -> dict[str, Any] | None:
    """A conversation in the ``sharegpt`` form; None if LLaMA-Factory would skip it."""
    system, turns = ("", messages) if messages[0].role != "system" else (messages[0].content, messages[1:])
    if any(turn.role == "system" for turn in turns):
        return None
    found: list[dict[str, str]] = []
    for turn in turns:
        role, value = _role(turn), _value(turn)
        if found and found[-1]["from"] == role and role in ASKING:
            found[-1]["value"] += f"\n\n{value}"
        else:
            found.append({"from": role, "value": value})
    alternate = all((turn["from"] in ASKING) == (i % 2 == 0) for i, turn in enumerate(found))
    return {"conversations": found, "system": system} if alternate else None


def _role(turn: Message) -> str:
    return CALLS if turn.fields.get("tool_calls") else ROLES[turn.role]


def _value(turn: Message) -> str:
    """The text of a turn. Thinking stands before it in the tags of LLaMA-Factory's templates; calls are JSON."""
    calls = [
        {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
        for call in turn.fields.get("tool_calls", ())
    ]
    said = json.dumps(calls, ensure_ascii=False) if calls else turn.content
    start, end = THINKING_TAGS
    thinking = turn.fields.get(THINKING_FIELD)
    return f"{start}\n{thinking}\n{end}\n\n{said}" if thinking else said


def _losses(messages: Sequence[Message], found: Sequence[Any]) -> Iterator[str]:
    """What of a row is not as it was."""
    if any(turn.content.strip() and turn.fields.get("tool_calls") for turn in messages):
        yield TEXT_LOST
    if len(found) < sum(turn.role != "system" for turn in messages):
        yield MERGED


def settings(job: Job, examples: int, *, mask_history: bool) -> dict[str, Any]:
    """The content of sft.yaml."""
    config = job.config
    return {
        "model_name_or_path": job.model,
        **({"model_revision": config.model_revision} if config.model_revision else {}),
        **({"trust_remote_code": True} if config.trust_remote_code else {}),
        "stage": "sft",
        "do_train": True,
        **_adapter(job),
        "dataset": NAME,
        "dataset_dir": ".",
        "cutoff_len": job.max_length,
        "mask_history": mask_history,
        "output_dir": "output",
        **trainer_settings(job, examples),
        "bf16": job.dtype == "bfloat16",
        "fp16": job.dtype == "float16",
    }


def _adapter(job: Job) -> dict[str, Any]:
    tune = job.config.tune
    if not tune.use_peft:
        return {"finetuning_type": "full"}
    named = [job.layers] if isinstance(job.layers, str) else job.layers
    return {
        **({"quantization_bit": 4} if job.config.load_in_4bit else {}),
        "finetuning_type": "lora",
        "lora_rank": tune.lora_r,
        "lora_alpha": round(tune.lora_alpha),
        "lora_dropout": tune.lora_dropout,
        "lora_target": "all" if job.layers == ALL_LINEAR else ",".join(named),
    }


TARGET = Target("LLaMA-Factory", write)
