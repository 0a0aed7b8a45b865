"""What an export target is given, and what it states about itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from sealtune.core.config import Config
from sealtune.core.files import Folder
from sealtune.core.types import Message
from sealtune.data.chat_template import DEFAULT_TEMPLATE
from sealtune.data.reasons import plural
from sealtune.data.render import fit
from sealtune.models.target_modules import Targets
from sealtune.pipeline.kept_rows import KeptRow, KeptRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS = "rows.jsonl"
"""The rows, in the folder of an export."""
TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True)
class Job:
    """What a target is given.

    Attributes:
        config: The config of the run.
        rows: The rows that the run trains on.
        tokenizer: The model's, with a chat template.
        model: The hub id or the folder of the model.
        layers: The layers that get an adapter.
        max_length: Tokens of a row, at most.
        facts: Numbers of rows ``ranked``, ``kept`` and ``added`` (of ``mix_datasets``).
        results: results.json of the run; None without a report.
        literals: Ids of the rows, as far as they were read, that spell out special tokens.
    """

    config: Config
    rows: KeptRows
    tokenizer: PreTrainedTokenizerBase
    model: str
    layers: Targets
    max_length: int
    facts: Mapping[str, int]
    results: Mapping[str, Any] | None = None
    literals: set[str] = field(default_factory=set)

    def fitted(self) -> Iterator[KeptRow]:
        """The rows in the form that the model's chat template accepts, as sealtune trains on them."""
        for row in self.rows:
            yield row._replace(messages=self._fit(row))

    def as_read(self) -> Iterator[KeptRow]:
        """The rows as they are, for tools that do not apply the model's chat template."""
        for row in self.rows:
            self._fit(row)
            yield row

    def _fit(self, row: KeptRow) -> Sequence[Message]:
        messages, rendered = fit(self.tokenizer, row.messages, row.tools)
        if rendered.has_literals:
            self.literals.add(row.id)
        return messages

    @property
    def dtype(self) -> str:
        """The dtype to compute in; ``auto`` is that of a GPU, which is what these tools run on."""
        return "bfloat16" if self.config.dtype == "auto" else self.config.dtype

    @property
    def lacks_template(self) -> bool:
        """Whether the model has no chat template of its own, so that sealtune's must be given to the tool."""
        return bool(self.tokenizer.chat_template == DEFAULT_TEMPLATE)

    def write_template(self, folder: Folder) -> None:
        """Write sealtune's chat template if the model has none."""
        if self.lacks_template:
            folder.write_text(TEMPLATE, str(self.tokenizer.chat_template))

    def literal_notes(self) -> list[str]:
        """What to say of rows that spell out special tokens."""
        count = len(self.literals)
        if not count:
            return []
        return [f"{plural(count, 'row')} spelling out special tokens: sealtune takes them as text, this tool as tokens"]


class Written(NamedTuple):
    """What a target has written.

    Attributes:
        examples: Rows of its file; more than rows of the run if conversations were split.
        start: The command that starts the tool in the folder; empty if there is nothing to start.
        notes: Lines that say what the tool lacks or does otherwise.
    """

    examples: int
    start: str
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Target:
    """One tool. Every file of ``pipeline/export`` ends with one, named ``TARGET``.

    Attributes:
        title: The name of the tool.
        write: Writes the rows and the settings into a folder.
        has_weights: Whether the tool reads a weight for each row.
        trains: Whether the tool trains, so that the safe set would have to be in force there.
        card: Writes the README.md, if the tool has a form of its own for it, from the job and the notes.
    """

    title: str
    write: Callable[[Job, Folder], Written]
    has_weights: bool = False
    trains: bool = True
    card: Callable[[Job, Sequence[str]], str] | None = None


# -- conversations -------------------------------------------------------------------------------------------------


def one_per_answer(row: KeptRow) -> Iterator[Sequence[Message]]:
    """The conversation up to each answer that is learned, for tools that learn only the last one."""
    for i, turn in enumerate(row.messages, 1):
        if turn.is_learned:
            yield row.messages[:i]


def as_dict(message: Message) -> dict[str, Any]:
    """A turn as chat templates read it."""
    return {"role": message.role, "content": message.content, **message.fields}


def tools_as_text(tools: Sequence[Mapping[str, Any]]) -> str | None:
    """The tools that a row declares as JSON; None without any."""
    return json.dumps(list(tools), ensure_ascii=False) if tools else None


def calls_with_text_arguments(calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tool calls whose arguments are JSON text, as OpenAI writes them: tables have one type for all values."""

    def as_text(function: Mapping[str, Any]) -> dict[str, Any]:
        return {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}

    return [{**call, "function": as_text(call["function"])} for call in calls]
