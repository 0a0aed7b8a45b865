"""TRL: JSON lines and a script with SFTTrainer.

If the chat template marks answers and all of them are learned, the rows are ``messages`` with ``assistant_only_loss``.
Otherwise they are ``prompt`` and ``completion`` with ``completion_only_loss``, one row for each answer that is learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from string import Template
from typing import Any

from sealtune.core.files import Folder
from sealtune.data.chat_template import get_template_info
from sealtune.data.reasons import plural
from sealtune.pipeline.export_job import ROWS, TEMPLATE, Job, Target, Written, as_dict, one_per_answer, tools_as_text
from sealtune.pipeline.export_settings import as_arguments, model_settings, precision, trainer_settings

SCRIPT = Template('''"""Fine-tune on the rows kept by sealtune: python train.py. README.md says what is not carried."""

from pathlib import Path

from datasets import Features, Json, List, Value, load_dataset
from peft import LoraConfig
${imports}from trl import SFTConfig, SFTTrainer

HERE = Path(__file__).parent
MODEL = $model
COLUMNS = Features({"id": Value("string"), "tools": Value("string"), $columns})
SETTINGS = dict(
    output_dir=str(HERE / "output"),
    model_init_kwargs=$model_settings,
$settings)


def make_trainer(**changes):
    """The trainer; ``changes`` are further settings of SFTConfig."""
    rows = load_dataset("json", data_files=str(HERE / "$rows"), split="train", features=COLUMNS)
    return SFTTrainer(
        model=MODEL,
        args=SFTConfig(**SETTINGS | changes),
        train_dataset=rows,
        peft_config=$adapter,
    )


if __name__ == "__main__":
    trainer = make_trainer()
    trainer.train()
    trainer.save_model()
''')
FOUR_BIT = (
    'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, '
    "bnb_4bit_compute_dtype={dtype!r})"
)


def write(job: Job, folder: Folder) -> Written:
    """Write rows.jsonl and train.py."""
    whole = _marks_answers(job) and not any(row.has_masked_turns for row in job.rows)
    count, learned = 0, 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal count, learned
        for row in job.fitted():
            answers = list(one_per_answer(row))
            learned += len(answers) > 1
            about = {"id": row.id, "tools": tools_as_text(row.tools)}
            for messages in [row.messages] if whole else answers:
                count += 1
                turns = [as_dict(message) for message in messages]
                yield about | ({"messages": turns} if whole else {"prompt": turns[:-1], "completion": turns[-1:]})

    folder.write_jsonl(ROWS, rows())
    job.write_template(folder)
    folder.write_text("train.py", _script(job, count, whole=whole))
    notes = ["a line break that the chat template writes behind the last answer may be learned too"]
    if learned and not whole:
        split = plural(learned, "conversation")
        notes.append(f"{split} split, one row for each learned answer: TRL masks no single turn")
    return Written(count, "python train.py", [*notes, *job.literal_notes()])


def _marks_answers(job: Job) -> bool:
    """Whether the chat template, or TRL's variant of it for training, marks the answers."""
    return get_template_info(job.tokenizer).marks_responses


def _script(job: Job, examples: int, *, whole: bool) -> str:
    loss = {"assistant_only_loss": True} if whole else {"completion_only_loss": True}
    settings = {"max_length": job.max_length, **loss, **trainer_settings(job, examples), **precision(job)}
    template = f"    chat_template_path=str(HERE / {TEMPLATE!r}),\n" if job.lacks_template else ""
    columns = ("messages",) if whole else ("prompt", "completion")
    return SCRIPT.substitute(
        imports="from transformers import BitsAndBytesConfig\n" if job.config.load_in_4bit else "",
        model=repr(job.model),
        columns=", ".join(f'"{name}": List(Json())' for name in columns),
        model_settings=_model_settings(job),
        settings=template + as_arguments(settings),
        rows=ROWS,
        adapter=_adapter(job),
    )


def _model_settings(job: Job) -> str:
    settings = model_settings(job)
    if not job.config.load_in_4bit:
        return repr(settings)
    return f"{{**{settings!r}, 'quantization_config': {FOUR_BIT.format(dtype=job.dtype)}}}"


def _adapter(job: Job) -> str:
    tune = job.config.tune
    if not tune.use_peft:
        return "None"
    return (
        f"LoraConfig(r={tune.lora_r}, lora_alpha={tune.lora_alpha!r}, lora_dropout={tune.lora_dropout!r}, "
        f'target_modules={job.layers!r}, task_type="CAUSAL_LM")'
    )


TARGET = Target("TRL", write)
