"""A conversation as the tokenizer's chat template writes it, and where in that text each answer stands.

The template is applied to the conversation once as it is and once with marks around every content. The marks tell the
template's own pieces from the contents, so the mask is found from the template itself: no prompt is tokenised twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import TemplateError

from sealtune.core.types import Message
from sealtune.data.formats import UnusableRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]

PRIVATE_USE = range(0xF0000, 0xFFFFE)

DEFAULT_TEMPLATE = (
    "{{ bos_token or '' }}"
    "{% for message in messages %}"
    "{{ '### ' + message['role'].title() + ':\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token or '' }}{% endif %}"
    "{{ '\n\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)


class Answer(NamedTuple):
    """One answer: its content is ``text[start:end]``; with the marker that ends the turn it reaches to ``stop``."""

    start: int
    end: int
    stop: int


class Rendered(NamedTuple):
    """A conversation as text; spans count characters of ``text``.

    ``controls`` are the special tokens that the template wrote; ``forged`` tells that the contents hold some too.
    """

    text: str
    answers: tuple[Answer, ...]
    controls: tuple[Span, ...]
    forged: bool


@dataclass(frozen=True)
class Habits:
    """What holds for every row of a tokenizer; ``controls`` matches its special tokens, the longest first."""

    takes_system: bool
    controls: re.Pattern[str]


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer without a chat template DEFAULT_TEMPLATE, so that training and generation use the same one."""
    if not tokenizer.chat_template:
        tokenizer.chat_template = DEFAULT_TEMPLATE


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The text a model continues when it answers this prompt. Raises UnusableRow."""
    return render(tokenizer, [Message("user", prompt)], generate=True).text


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], generate: bool = False) -> Rendered:
    """The conversation as text, with the spans of its answers.

    Args:
        tokenizer: one that has a chat template.
        messages: the conversation.
        generate: whether to open a turn of the assistant at the end.

    Raises:
        UnusableRow: the template refuses the conversation, or changes more of a content than the blanks around it.
    """
    habits = find_habits(tokenizer)
    turns = list(messages) if habits.takes_system else _merge_system(messages)
    text = _apply(tokenizer, turns, generate)
    marks = _free_characters("".join(turn.content for turn in turns), 2 * len(turns))
    marked = [Message(turn.role, marks[2 * i] + turn.content + marks[2 * i + 1]) for i, turn in enumerate(turns)]
    contents = _align(_apply(tokenizer, marked, generate), text, marks)
    controls = _own_controls(text, contents, habits.controls)
    answers = tuple(
        _answer(text, span, controls) for turn, span in zip(turns, contents, strict=True) if turn.role == "assistant"
    )
    forged = controls != tuple(match.span() for match in habits.controls.finditer(text))
    return Rendered(text, answers, controls, forged)


def find_habits(tokenizer: PreTrainedTokenizerBase) -> Habits:
    """What holds for every row of this tokenizer with its present template; found once."""
    return _probe(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=8)
def _probe(tokenizer: PreTrainedTokenizerBase, template: str) -> Habits:
    frame = _try(tokenizer, [Message("user", "x")], generate=True)
    added = tokenizer.added_tokens_decoder.values()
    # Some models mark turns with added tokens that are not "special": what frames a user's turn counts as such.
    controls = [token.content for token in added if token.special or (token.content.strip() and token.content in frame)]
    longest_first = sorted(controls, key=len, reverse=True)
    system = _try(tokenizer, [Message("system", "sealtune"), Message("user", "x")])
    return Habits("sealtune" in system, re.compile("|".join(map(re.escape, longest_first)) or "(?!)"))


def _try(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], generate: bool = False) -> str:
    try:
        return _apply(tokenizer, messages, generate)
    except UnusableRow:
        return ""


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], generate: bool) -> str:
    turns = [message._asdict() for message in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generate))
    except (TemplateError, TypeError, ValueError) as error:
        raise UnusableRow("template_refuses", f"the chat template: {error}") from None


def _merge_system(messages: Sequence[Message]) -> list[Message]:
    """For templates without a system role: its text opens the first turn of the user."""
    if not messages or messages[0].role != "system":
        return list(messages)
    system, *rest = messages
    if rest and rest[0].role == "user":
        return [Message("user", f"{system.content}\n\n{rest[0].content}"), *rest[1:]]
    return [Message("user", system.content), *rest]


def _free_characters(text: str, count: int) -> str:
    """Private characters that the text does not hold."""
    used = set(text)
    free = "".join(islice((mark for mark in map(chr, PRIVATE_USE) if mark not in used), count))
    if len(free) < count:
        raise UnusableRow("too_many_turns", f"more than {len(PRIVATE_USE) // 2} turns")
    return free


def _align(marked: str, text: str, marks: str) -> list[Span]:
    """Spans in ``text`` of the contents that stand between pairs of marks in ``marked``.

    The two differ in the marks and in blanks that the template trims, as it cannot behind a mark. Raises UnusableRow.
    """
    first, *pieces = re.split(f"([{marks}])", marked)  # template, then (mark, content, mark, template) a message
    spans: dict[int, Span] = {}
    at = len(first)
    for opening, content, closing, after in zip(*(pieces[k::4] for k in range(4)), strict=False):
        number, odd = divmod(marks.index(opening), 2)
        end = next((at + n for n in _trimmed_sizes(content, text, at) if text.startswith(after, at + n)), None)
        if odd or closing != marks[2 * number + 1] or number in spans or end is None:
            raise _rewritten()
        spans[number] = (at, end)
        at = end + len(after)
    if len(spans) != len(marks) // 2 or len(pieces) != 2 * len(marks) or at != len(text) or not text.startswith(first):
        raise _rewritten()
    return [spans[number] for number in range(len(spans))]


def _trimmed_sizes(content: str, text: str, at: int) -> Iterator[int]:
    """Lengths of the content in ``text`` at this place: as it is, or trimmed as templates trim."""
    for trimmed in (
        content,
        content.strip(),
        content.lstrip(),
        content.rstrip(),
        content.strip("\n"),
        content.lstrip("\n"),
    ):
        if text.startswith(trimmed, at):
            yield len(trimmed)


def _rewritten() -> UnusableRow:
    return UnusableRow("template_rewrites_answer", "the chat template changes or leaves out a content")


def _own_controls(text: str, contents: Sequence[Span], pattern: re.Pattern[str]) -> tuple[Span, ...]:
    """Spans of the special tokens that stand in the template's own pieces."""
    edges = [0, *(edge for span in sorted(contents) for edge in span), len(text)]
    pieces = zip(edges[::2], edges[1::2], strict=True)
    return tuple(match.span() for start, end in pieces for match in pattern.finditer(text, start, end))


def _answer(text: str, content: Span, controls: Sequence[Span]) -> Answer:
    """The answer with the special token that ends its turn, if only blanks stand between."""
    start, end = content
    marker = next((span for span in controls if span[0] >= end), None)
    ends_turn = marker is not None and not text[end : marker[0]].strip()
    # One space before the content belongs to it: tokenizers put it into the first token (`[/INST] Yes` -> `▁Yes`).
    space = start > 0 and text[start - 1] == " "
    return Answer(start - space, end, marker[1] if marker and ends_turn else end)
