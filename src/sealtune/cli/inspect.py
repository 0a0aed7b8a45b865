"""Rows as they will be trained on, for the eye: text, what of it is learned, lengths, and drops."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table
from rich.text import Text

from sealtune.core.sanitize import escape_unprintable
from sealtune.core.string_array import IntArray
from sealtune.core.types import Drop, Sample
from sealtune.data.chat_template import find_habits
from sealtune.data.encoded import Encoded

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase

LEARNED, SPECIAL = "green", "dim"
BINS, BAR = 10, 40
EXAMPLES = 3


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
    """Print ``rows`` rows spread over the data, a summary of their lengths, and the drops by reason.

    Learned tokens are green, or stand between ⟦ and ⟧ on a console without colour; special tokens are dim. Control
    characters are written as escapes, so that no row can move the cursor.
    """
    for i in np.unique(np.linspace(0, max(len(encoded) - 1, 0), min(rows, len(encoded))).astype(int)):
        _show_row(encoded, int(i), tokenizer, console)
    console.print(Text(f"{len(encoded)} of {len(samples)} rows can be learned from"))
    if len(encoded):
        _show_lengths(encoded, drops, max_length, console)
    if drops:
        console.print(_drop_table(drops))


def _show_row(encoded: Encoded, i: int, tokenizer: PreTrainedTokenizerBase, console: Console) -> None:
    tokens, mask = encoded.row(i)
    place = f"{escape_unprintable(encoded.ids[i])}  ({escape_unprintable(encoded.source[i])})"
    console.rule(Text(f"{place}  {len(tokens)} tokens, {int(mask.sum())} learned"), align="left")
    console.print(
        _paint(tokens.tolist(), mask.tolist(), tokenizer, bool(console.color_system) and not console.no_color)
    )


def _paint(tokens: list[int], mask: list[bool], tokenizer: PreTrainedTokenizerBase, colour: bool) -> Text:
    """The row's text: neighbours alike in kind are decoded together, since one character may take several tokens."""
    controls = find_habits(tokenizer).controls
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if controls.fullmatch(token.content)}
    painted = Text()
    for learned, run in groupby(zip(tokens, mask, strict=True), key=lambda pair: pair[1]):
        painted.append("⟦" if learned and not colour else "")
        for is_special, ids in groupby((token for token, _ in run), key=special.__contains__):
            style = " ".join([LEARNED] * learned + [SPECIAL] * is_special)
            painted.append(escape_unprintable(tokenizer.decode(list(ids)), keep="\n"), style=style)
        painted.append("⟧" if learned and not colour else "")
    return painted


def _show_lengths(encoded: Encoded, drops: Collection[Drop], max_length: int | None, console: Console) -> None:
    lengths = encoded.lengths
    low, middle, high, top = np.percentile(lengths, [0, 50, 95, 100]).astype(int)
    encoded = encoded.block(0, len(encoded))
    learned = int(encoded.mask.sum())
    console.print(Text(f"{len(encoded.tokens):,} tokens, {learned:,} of them learned ({learned / lengths.sum():.1%})"))
    console.print(Text(f"tokens a row: least {low}, median {middle}, 95 % {high}, most {top}"))
    if max_length is not None:
        dropped = sum(drop.reason == "too_long" for drop in drops)
        reach = int((lengths >= max_length).sum()) + dropped
        share = reach / (len(encoded) + dropped)
        console.print(Text(f"{share:.1%} of the rows reach max_length {max_length} ({dropped} dropped for it)"))
    console.print(_histogram(lengths))


def _histogram(lengths: IntArray) -> Text:
    counts, edges = np.histogram(lengths, bins=min(BINS, int(np.ptp(lengths)) + 1))
    width = len(str(int(edges[-1])))
    return Text("\n").join(
        Text(f"{int(np.ceil(edge)):>{width}}+ {'█' * -(-int(count) * BAR // int(counts.max()))} {count}")
        for edge, count in zip(edges, counts, strict=False)
    )


def _drop_table(drops: Collection[Drop]) -> Table:
    table = Table("reason", "rows", "for example", title="dropped", title_justify="left")
    ids: dict[str, list[str]] = {}
    for drop in drops:
        ids.setdefault(drop.reason, []).append(drop.id)
    for reason, found in sorted(ids.items(), key=lambda item: (-len(item[1]), item[0])):
        examples = ", ".join(escape_unprintable(name) for name in found[:EXAMPLES])
        table.add_row(Text(escape_unprintable(reason)), Text(str(len(found))), Text(examples))
    return table
