"""A tokenizer's chat template: how it is applied, and what it supports.

A template that marks responses with ``{% generation %}`` states itself what is learned. TRL ships such a variant of
many models' templates, and the one that belongs to the tokenizer's own is applied in its place.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from sealtune.core.types import Message
from sealtune.data.turns import UnusableRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
Tools = Sequence[Mapping[str, Any]]

DEFAULT_TEMPLATE = (
    "{{ bos_token or '' }}"
    "{% for message in messages %}"
    "{{ '### ' + message['role'].title() + ':\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token or '' }}{% endif %}"
    "{{ '\n\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
THINKING_TAGS = ("<think>", "</think>")
"""Never plain text, not even if the tokenizer has a token for them: thinking is learned as the model writes it."""


@dataclass(frozen=True)
class TemplateInfo:
    """Properties of a tokenizer and its chat template.

    Attributes:
        template: What is applied: the tokenizer's own template, or TRL's variant that marks responses.
        marks_responses: Whether it marks them.
        supports_system_role: Whether a system prompt is in the text.
        wants_parts: Whether contents must be lists of parts.
        special_tokens: Matches the tokenizer's special tokens.
        turn_markers: Matches the special tokens that the template writes around turns.
    """

    template: str
    marks_responses: bool
    supports_system_role: bool
    wants_parts: bool
    special_tokens: re.Pattern[str]
    turn_markers: re.Pattern[str]


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Set DEFAULT_TEMPLATE if the tokenizer has no chat template, so that training and generation use the same one."""
    if not tokenizer.chat_template:
        tokenizer.chat_template = DEFAULT_TEMPLATE


def get_template_info(tokenizer: PreTrainedTokenizerBase, tools: Tools = ()) -> TemplateInfo:
    """Properties of the tokenizer with its present template, cached; some have another template for tools."""
    return _probe(tokenizer, str(tokenizer.get_chat_template(tools=list(tools) or None)))


def apply(
    tokenizer: PreTrainedTokenizerBase,
    info: TemplateInfo,
    messages: Sequence[Message],
    tools: Tools = (),
    *,
    generate: bool = False,
) -> tuple[str, list[Span]]:
    """The conversation as text, and the spans that the template marks as generated; none if it marks nothing.

    Raises:
        UnusableRow: the template refuses the conversation.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    turns = [_as_template_message(message, info.wants_parts) for message in messages]
    try:
        (text,), spans = render_jinja_template(
            [turns],
            tools=list(tools) or None,
            chat_template=info.template,
            return_assistant_tokens_mask=info.marks_responses,
            add_generation_prompt=generate,
            **tokenizer.special_tokens_map,
        )
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise UnusableRow("template_refuses", f"the chat template: {error}") from None
    return text, list(spans[0]) if spans else []


def _as_template_message(message: Message, parts: bool) -> dict[str, Any]:
    content: Any = [{"type": "text", "text": message.content}] if parts else message.content
    return {"role": message.role, "content": content, **message.fields}


@lru_cache(maxsize=8)
def _probe(tokenizer: PreTrainedTokenizerBase, own: str) -> TemplateInfo:
    template = _training_variant(own)
    nothing = re.compile("(?!)")
    info = TemplateInfo(template, bool(GENERATION.search(template)), True, False, nothing, nothing)
    if "sealtune" not in _try(tokenizer, info, [Message("user", "sealtune")]):
        in_parts = replace(info, wants_parts=True)
        info = in_parts if "sealtune" in _try(tokenizer, in_parts, [Message("user", "sealtune")]) else info
    system = [Message("system", "sealtune"), Message("user", "x"), Message("assistant", "y")]
    info = replace(info, supports_system_role="sealtune" in _try(tokenizer, info, system))
    talk = system if info.supports_system_role else system[1:]
    turns = _try(tokenizer, info, talk) + _try(tokenizer, info, talk[:-1], generate=True)
    added = [token for token in tokenizer.added_tokens_decoder.values() if token.content not in THINKING_TAGS]
    # Some models mark turns with added tokens that are not "special"; those in a rendered turn are treated as special.
    special = [token.content for token in added if token.special or (token.content.strip() and token.content in turns)]
    return replace(
        info, special_tokens=_any_of(special), turn_markers=_any_of([name for name in special if name in turns])
    )


def _training_variant(template: str) -> str:
    """TRL's variant of the template that marks responses; the template itself if it marks them, or TRL has none."""
    if GENERATION.search(template):
        return template
    return _trl_variants().get(template, template)


@cache
def _trl_variants() -> dict[str, str]:
    """The templates that TRL ships, and the variant for training of each. TRL is not imported, which takes seconds."""
    spec = importlib.util.find_spec("trl")
    folder = Path(spec.origin or "").parent / "chat_templates" if spec else Path()
    pairs = ((path.with_name(path.name.replace("_training", "")), path) for path in folder.glob("*_training.jinja"))
    return {own.read_text("utf-8"): variant.read_text("utf-8") for own, variant in pairs if own.exists()}


def _any_of(names: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _try(
    tokenizer: PreTrainedTokenizerBase, info: TemplateInfo, messages: Sequence[Message], generate: bool = False
) -> str:
    try:
        return apply(tokenizer, info, messages, generate=generate)[0]
    except UnusableRow:
        return ""
