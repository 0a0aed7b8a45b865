"""Shows rows as the model is trained on them: text with the loss mask, lengths, and dropped rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table
from rich.text import Text

from sealtune.core.sanitize import escape_unprintable
from sealtune.core.spacing import evenly_spaced
from sealtune.core.string_array import IntArray
from sealtune.core.types import Drop, Sample
from sealtune.data.chat_template import get_template_info
from sealtune.data.encoded import Encoded

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase

RESPONSE_STYLE, SPECIAL_STYLE = "green", "dim"
MAX_BINS, BAR_WIDTH = 10, 40
MAX_EXAMPLES = 3


def show(
    samples: Sequence[Sample],
    encoded: Encoded,
    drops: Collection[Drop],
    tokenizer: PreTrainedTokenizerBase,
    console: Console,
    *,
    rows: int = 3,
    max_length: int | None = None,
) -> None:
    """Print ``rows`` evenly spaced rows, a summary of all lengths, and the dropped rows by reason.

    Response tokens are green, or between ⟦ and ⟧ on a console without colours; special tokens are dim. Control
    characters are escaped, so that no row can move the cursor.
    """
    for i in evenly_spaced(len(encoded), rows).tolist():
        show_row(encoded, i, tokenizer, console)
    console.print(Text(f"{len(encoded)} of {len(samples)} rows are usable"))
    if len(encoded):
        _show_lengths(encoded, drops, max_length, console)
    if drops:
        console.print(_drop_table(drops))


def show_row(encoded: Encoded, i: int, tokenizer: PreTrainedTokenizerBase, console: Console) -> None:
    """Print the text of row i, with what is learned in colour."""
    tokens, mask = encoded.row(i)
    title = f"{escape_unprintable(encoded.ids[i])}  ({escape_unprintable(encoded.source[i])})"
    console.rule(Text(f"{title}  {len(tokens)} tokens, {int(mask.sum())} of the response"), align="left")
    colour = bool(console.color_system) and not console.no_color
    console.print(_highlight(tokens.tolist(), mask.tolist(), tokenizer, colour))


def _highlight(tokens: list[int], mask: list[bool], tokenizer: PreTrainedTokenizerBase, colour: bool) -> Text:
    """The text of a row. Runs of tokens of the same kind are decoded together: a character may span several tokens."""
    controls = get_template_info(tokenizer).special_tokens
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if controls.fullmatch(token.content)}
    text = Text()
    for in_response, run in groupby(zip(tokens, mask, strict=True), key=lambda pair: pair[1]):
        text.append("⟦" if in_response and not colour else "")
        for is_special, ids in groupby((token for token, _ in run), key=special.__contains__):
            style = " ".join([RESPONSE_STYLE] * in_response + [SPECIAL_STYLE] * is_special)
            text.append(escape_unprintable(tokenizer.decode(list(ids)), keep="\n"), style=style)
        text.append("⟧" if in_response and not colour else "")
    return text


def _show_lengths(encoded: Encoded, drops: Collection[Drop], max_length: int | None, console: Console) -> None:
    lengths = encoded.lengths
    low, median, high, top = np.percentile(lengths, [0, 50, 95, 100]).astype(int)
    encoded = encoded.block(0, len(encoded))
    response = int(encoded.mask.sum())
    share = response / lengths.sum()
    console.print(Text(f"{len(encoded.tokens):,} tokens, {response:,} of them in responses ({share:.1%})"))
    console.print(Text(f"tokens per row: minimum {low}, median {median}, 95th percentile {high}, maximum {top}"))
    if max_length is not None:
        dropped = sum(drop.reason == "too_long" for drop in drops)
        reaching = int((lengths >= max_length).sum()) + dropped
        share = reaching / (len(encoded) + dropped)
        console.print(Text(f"{share:.1%} of the rows reach max_length {max_length} ({dropped} were dropped)"))
    console.print(_histogram(lengths))


def _histogram(lengths: IntArray) -> Text:
    counts, edges = np.histogram(lengths, bins=min(MAX_BINS, int(np.ptp(lengths)) + 1))
    width = len(str(int(edges[-1])))
    return Text("\n").join(
        Text(f"{int(np.ceil(edge)):>{width}}+ {'█' * -(-int(count) * BAR_WIDTH // int(counts.max()))} {count}")
        for edge, count in zip(edges, counts, strict=False)
    )


def _drop_table(drops: Collection[Drop]) -> Table:
    table = Table("reason", "rows", "examples", title="dropped rows", title_justify="left")
    ids: dict[str, list[str]] = {}
    for drop in drops:
        ids.setdefault(drop.reason, []).append(drop.id)
    for reason, found in sorted(ids.items(), key=lambda item: (-len(item[1]), item[0])):
        examples = ", ".join(escape_unprintable(name) for name in found[:MAX_EXAMPLES])
        table.add_row(Text(escape_unprintable(reason)), Text(str(len(found))), Text(examples))
    return table
