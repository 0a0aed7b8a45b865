"""What a run would read: rows, turns, tokens, duplicates, the model and the judges. Nothing is trained."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from sealtune.data.chat_template import DEFAULT_TEMPLATE, get_template_info
from sealtune.data.duplicates import MAX_COMPARED, count_near_duplicates, count_near_shared, count_repeats, count_shared
from sealtune.data.encode import CUT_AFTER_ANSWER
from sealtune.data.reasons import describe, plural
from sealtune.data.render import THINKING_END, THINKING_LEFT_OUT
from sealtune.data.row_store import Samples
from sealtune.data.turns import THINKING_FIELD
from sealtune.evaluation import judging
from sealtune.evaluation.prompts import notices
from sealtune.models.adapter_chain import adapter_of, base_of, combinable
from sealtune.models.check import check_models
from sealtune.models.load import compute_dtype, public_name
from sealtune.pipeline.inputs import RunInputs, TokenizedRows
from sealtune.pipeline.safe_set_examination import examine_safe_set
from sealtune.pipeline.safe_set_findings import ABOUT_START_MODEL


@dataclass
class Findings:
    """Lines of the page by section, and what would be lost."""

    sections: dict[str, list[str]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)


def check(inputs: RunInputs, model_answers: bool | None = None) -> Findings:
    """Read everything that a run needs, and say what was understood.

    Args:
        inputs: The run's.
        model_answers: Whether the model is asked to answer prompts of the safe set; None: if it is small and local.

    Raises:
        UserError: a file, a setting or the tokenizer cannot be used at all.
    """
    found = Findings()
    config = inputs.config
    check_models(config, ranks=True, tunes=True)
    found.sections["model"] = list(_describe_model(inputs))
    with _messages_of_reading() as found.sections["candidates"]:
        candidates = inputs.load_candidates()
    _add_rows(found, "candidates", candidates, inputs.notes["candidates"], inputs.max_length())
    if config.safe_datasets:
        with _messages_of_reading() as found.sections["safe set"]:
            safe = inputs.load_safe()
        _add_rows(found, "safe set", safe, inputs.notes["safe"], inputs.max_length())
        both = candidates.rows.samples, safe.rows.samples
        shared, near = count_shared(*both), count_near_shared(*both)
        found.sections["safe set"].append(f"candidates that are in it too: {shared:,} exact, {near:,} exact or near")
        if shared:
            found.lost.append(f"{plural(shared, 'candidate')} of the safe set: their ranking says nothing")
        found.sections["what the safe set can teach"] = list(_describe_safe_set(inputs, model_answers))
    inputs.load_labels()
    if config.evaluate.prompts:
        prompts = inputs.load_prompts()
        found.sections["prompts"] = [f"{len(prompts.asked):,} prompts", *notices(prompts.drops)]
        found.lost += notices(prompts.drops)
    _add_judges(found, inputs)
    return found


class _Collector(logging.Handler):
    """Appends every message to a list."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Append a message."""
        self.lines.append(record.getMessage())


@contextmanager
def _messages_of_reading() -> Iterator[list[str]]:
    """What the data room logs: the formats, the columns used and carried along, the separators of a file."""
    lines: list[str] = []
    handler = _Collector(lines)
    room = logging.getLogger("sealtune.data")
    before = room.level
    room.addHandler(handler)
    room.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        room.removeHandler(handler)
        room.setLevel(before)


def _describe_model(inputs: RunInputs) -> Iterator[str]:
    config, tokenizer = inputs.config, inputs.load_tokenizer()
    yield f"{public_name(config)}, {str(compute_dtype(config)).removeprefix('torch.')}" + (
        ", base in 4-bit" if config.load_in_4bit else ""
    )
    if (adapter := adapter_of(config)) is not None:
        kept = config.load_in_4bit and combinable(config) is not None
        how = "kept beside its 4-bit weights" if kept else "merged into it"
        yield f"an adapter on {base_of(config, adapter).model_name_or_path}, {how}"
    yield f"tokenizer of {len(tokenizer):,} tokens; end {tokenizer.eos_token!r}, padding {tokenizer.pad_token!r}"
    info = get_template_info(tokenizer)
    if info.template == DEFAULT_TEMPLATE:
        yield "no chat template of its own: a plain one is used, with '### User:' and '### Assistant:'"
    elif info.marks_responses and info.template != tokenizer.get_chat_template():
        yield "chat template: TRL's variant for training of the model's own, which marks what is learned"
    else:
        yield "chat template: the model's own" + (", which marks what is learned" if info.marks_responses else "")
    if not info.supports_system_role:
        yield "the chat template has no system role: system prompts are put before the first user turn"


def _add_rows(found: Findings, name: str, tokenized: TokenizedRows, notes: Mapping[str, int], limit: int) -> None:
    samples, encoded, drops = tokenized.rows.samples, tokenized.encoded, tokenized.drops
    lines = found.sections[name]
    lines.append(f"{len(encoded):,} usable rows of {len(encoded) + len(drops):,}")
    if drops:
        lines.append(describe(drops))
        first = next(iter(drops))
        found.lost.append(f"{name}: {describe(drops)}; first, row {first.id}: {first.detail}")
    lines += _describe_turns(samples)
    lengths = encoded.lengths
    low, middle, high = np.percentile(lengths, [0, 50, 100]).astype(int)
    learned = int(encoded.block(0, len(encoded)).mask.sum())
    lines.append(f"{lengths.sum():,} tokens, {learned:,} learned; per row {low} to {high}, median {middle}")
    if cut := int((lengths >= limit).sum()):
        lines.append(f"{plural(cut, 'row')} of max_length={limit} or more")
        found.lost.append(f"{name}: {plural(cut, 'row')} of max_length={limit} or more tokens may be cut; raise it")
    for note, count in notes.items():
        lines.append(f"{plural(count, 'row')}: {note}")
        if note in (CUT_AFTER_ANSWER, THINKING_LEFT_OUT):
            found.lost.append(f"{name}: {plural(count, 'row')}: {note}")
    lines += _describe_duplicates(samples)


def _describe_turns(samples: Samples) -> Iterator[str]:
    roles: Counter[str] = Counter()
    masked = thinking = calls = 0
    for sample in samples:
        for turn in sample.messages:
            roles[turn.role] += 1
            masked += turn.role == "assistant" and not turn.train
            thinking += THINKING_FIELD in turn.fields or THINKING_END in turn.content
            calls += "tool_calls" in turn.fields
    yield "turns: " + ", ".join(f"{count:,} {role}" for role, count in roles.most_common())
    extra = {"marked as context": masked, "with thinking": thinking, "with tool calls": calls}
    if any(extra.values()):
        yield "assistant turns: " + ", ".join(f"{count:,} {what}" for what, count in extra.items() if count)


def _describe_duplicates(samples: Samples) -> Iterator[str]:
    repeats, near = count_repeats(samples), count_near_duplicates(samples)
    compared = f" (of the first {MAX_COMPARED:,})" if len(samples) > MAX_COMPARED else ""
    yield f"duplicates: {repeats:,} exact, {near:,} exact or near{compared}"


def _describe_safe_set(inputs: RunInputs, model_answers: bool | None) -> Iterator[str]:
    """One line per finding; advice is given where something can be done better."""
    findings = examine_safe_set(inputs, model_answers)
    for finding in findings:
        yield finding.fact if finding.severity == "fine" else f"{finding.severity}: {finding.fact}; {finding.advice}"
    if not any(finding.name in ABOUT_START_MODEL for finding in findings):
        yield "how the model itself answers these prompts was not measured; --model-answers measures it"


def _add_judges(found: Findings, inputs: RunInputs) -> None:
    config = inputs.config.evaluate
    judging.check(config)
    lines = found.sections.setdefault("judges", [])
    for _, ok, message in judging.ping(config):
        lines.append(message)
        if not ok:
            found.lost.append(f"judge {message}")
