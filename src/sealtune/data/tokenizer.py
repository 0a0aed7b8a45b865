"""Token ids of rendered conversations, and the character offset of each token.

Only the template may write special tokens. In a content their names are plain text: `<|im_end|>` in a user's message
must not end the turn.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from sealtune.core.string_array import IntArray
from sealtune.data.chat_template import get_template_info
from sealtune.data.render import Rendered
from sealtune.data.turns import UnusableRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIRST_PLACEHOLDER = 0x100000  # another private-use plane than that of the sentinels


class Tokens(NamedTuple):
    """Token ids, int32 (T,), and the offset in the text where each token starts, int64 (T,)."""

    ids: npt.NDArray[np.int32]
    starts: IntArray


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Tokens]:
    """The tokens of each text; names of special tokens become special tokens everywhere."""
    if not texts:
        return []
    encoding = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    pairs = zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
    return [Tokens(np.array(ids, np.int32), _starts(offsets)) for ids, offsets in pairs]


def tokenize_with_literals(tokenizer: PreTrainedTokenizerBase, rendered: Rendered) -> Tokens:
    """The tokens of a text in whose contents the names of special tokens stay plain text.

    Raises:
        UnusableRow: the tokenizer still makes a special token of a content.
    """
    variant = _make_variant(tokenizer, str(tokenizer.chat_template))
    text, offsets = _insert_placeholders(rendered, variant.placeholders)
    (tokens,) = tokenize(variant.tokenizer, [text])
    ids = np.array([variant.original_ids.get(token, token) for token in tokens.ids.tolist()], np.int32)
    if np.isin(ids, variant.special_ids).sum() != len(rendered.special_tokens):
        raise UnusableRow("special_token_in_text", "the tokenizer reads a special token in a content")
    return Tokens(ids, offsets[tokens.starts])


def _starts(offsets: Sequence[tuple[int, int]]) -> IntArray:
    """The start of each token, (T,). A token of no width (trimmed whitespace) starts where the one before it ends."""
    spans = np.array(offsets, np.int64).reshape(-1, 2)
    previous_end = np.concatenate([[0], spans[:-1, 1]])
    return np.where(spans[:, 0] == spans[:, 1], previous_end, spans[:, 0])


@dataclass(frozen=True)
class _Variant:
    """A tokenizer whose special tokens are private-use placeholders, and the original ids of its added tokens."""

    tokenizer: PreTrainedTokenizerBase
    placeholders: dict[str, str]
    original_ids: dict[int, int]
    special_ids: list[int]


@lru_cache(maxsize=2)
def _make_variant(tokenizer: PreTrainedTokenizerBase, template: str) -> _Variant:
    """A variant that splits, strips and prefixes text around special tokens exactly as the tokenizer does."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    special = get_template_info(tokenizer).special_tokens
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["content"]: token["id"] for token in spec["added_tokens"]}
    placeholders = {name: chr(FIRST_PLACEHOLDER + i) for i, name in enumerate(added) if special.fullmatch(name)}
    for token in spec["added_tokens"]:
        token["content"] = placeholders.get(token["content"], token["content"])
    variant = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)))
    ids = {variant.convert_tokens_to_ids(placeholders.get(name, name)): number for name, number in added.items()}
    return _Variant(variant, placeholders, ids, [added[name] for name in placeholders])


def _insert_placeholders(rendered: Rendered, placeholders: dict[str, str]) -> tuple[str, IntArray]:
    """The text with placeholders for the template's special tokens, and the original offset of each character."""
    pieces, offsets, end = [], [], 0
    for start, stop in rendered.special_tokens:
        pieces += [rendered.text[end:start], placeholders[rendered.text[start:stop]]]
        offsets += [*range(end, start), start]
        end = stop
    pieces.append(rendered.text[end:])
    offsets += range(end, len(rendered.text) + 1)
    return "".join(pieces), np.array(offsets, np.int64)
