"""Token ids of rendered conversations, and where in the text each token starts.

A special token is one only where the template wrote it. In a content its name is text: `<|im_end|>` in a user's
message must not end the turn.
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
from sealtune.data.chat_template import Rendered, find_habits
from sealtune.data.formats import UnusableRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIRST_STAND_IN = 0x100000  # the second plane of private characters; marks are taken from the first


class Tokens(NamedTuple):
    """Ids int32 (T,) and the place in the text where each token starts, int64 (T,)."""

    ids: npt.NDArray[np.int32]
    starts: IntArray


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Tokens]:
    """Tokens of each text; special tokens are read as such wherever they stand."""
    if not texts:
        return []
    found = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
    return [Tokens(np.array(ids, np.int32), _starts(offsets)) for ids, offsets in pairs]


def tokenize_forged(tokenizer: PreTrainedTokenizerBase, rendered: Rendered) -> Tokens:
    """Tokens of a text whose contents hold names of special tokens, which stay text.

    Raises:
        UnusableRow: the tokenizer makes a special token of the plain text all the same.
    """
    twin = _make_twin(tokenizer, str(tokenizer.chat_template))
    text, places = _stand_in(rendered, twin.stand_ins)
    (found,) = tokenize(twin.tokenizer, [text])
    ids = np.array([twin.ids.get(token, token) for token in found.ids.tolist()], np.int32)
    if np.isin(ids, twin.controls).sum() != len(rendered.controls):
        raise UnusableRow("special_token_in_text", "the tokenizer reads a special token in a content")
    return Tokens(ids, places[found.starts])


def _starts(offsets: Sequence[tuple[int, int]]) -> IntArray:
    """Where each token starts, (T,). A token of no width (blanks that are trimmed) starts where the last one ends."""
    spans = np.array(offsets, np.int64).reshape(-1, 2)
    last_end = np.concatenate([[0], spans[:-1, 1]])
    return np.where(spans[:, 0] == spans[:, 1], last_end, spans[:, 0])


@dataclass(frozen=True)
class _Twin:
    """The tokenizer with private characters in place of its special tokens, and the way back to its ids."""

    tokenizer: PreTrainedTokenizerBase
    stand_ins: dict[str, str]
    ids: dict[int, int]
    controls: list[int]


@lru_cache(maxsize=2)
def _make_twin(tokenizer: PreTrainedTokenizerBase, template: str) -> _Twin:
    """A twin that cuts, strips and prefixes text around special tokens just as the tokenizer does."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    controls = find_habits(tokenizer).controls
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["content"]: token["id"] for token in spec["added_tokens"]}
    stand_ins = {name: chr(FIRST_STAND_IN + i) for i, name in enumerate(added) if controls.fullmatch(name)}
    for token in spec["added_tokens"]:
        token["content"] = stand_ins.get(token["content"], token["content"])
    twin = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)))
    ids = {twin.convert_tokens_to_ids(stand_ins.get(name, name)): number for name, number in added.items()}
    return _Twin(twin, stand_ins, ids, [added[name] for name in stand_ins])


def _stand_in(rendered: Rendered, stand_ins: dict[str, str]) -> tuple[str, IntArray]:
    """The text with stand-ins for the template's special tokens, and where each character stood."""
    pieces, places, at = [], [], 0
    for start, end in rendered.controls:
        pieces += [rendered.text[at:start], stand_ins[rendered.text[start:end]]]
        places += [*range(at, start), start]
        at = end
    pieces.append(rendered.text[at:])
    places += range(at, len(rendered.text) + 1)
    return "".join(pieces), np.array(places, np.int64)
