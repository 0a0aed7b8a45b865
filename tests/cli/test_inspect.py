import io

import pytest
from rich.console import Console

from helpers import chat_tokenizers as make
from sealtune.cli.inspect import show
from sealtune.core.types import Drop, Message, Sample
from sealtune.data.encode import encode


def sample(name, response):
    return Sample(name, (Message("user", "Who jumps?"), Message("assistant", response)), "web", {})


def shown(samples, drops=(), colour=False, **options):
    tokenizer = make.chatml_tokenizer()
    encoded, more = encode(samples, tokenizer, options.get("max_length") or 1000)
    console = Console(file=io.StringIO(), width=200, force_terminal=colour, color_system="standard" if colour else None)
    show(samples, encoded, [*drops, *more], tokenizer, console, **options)
    return console.file.getvalue()


def test_responses_are_in_brackets_without_colours():
    text = shown([sample("r1", "[bold]The fox.[/bold]")])
    assert "⟦[bold]The fox.[/bold]<|im_end|>⟧" in text
    assert "r1  (web)" in text
    assert text.count("⟦") == 1


def test_responses_are_green_and_special_tokens_dim():
    text = shown([sample("r1", "The fox.")], colour=True)
    assert "\x1b[32mThe fox.\x1b[0m" in text
    assert "\x1b[2m<|im_start|>\x1b[0m" in text
    assert "⟦" not in text


@pytest.mark.parametrize("evil", ["\x1b[2J", "\u202e", "\r", "\x07", "\x9b", "\u200b", "\u2028"])
def test_control_characters_are_escaped(evil):
    drops = [Drop(f"d{evil}", "web", "not_text", "", {})]
    text = shown([Sample(f"id{evil}", sample("x", f"a{evil}b").messages, f"s{evil}", {})], drops)
    assert evil not in text
    assert text.count(evil[0].encode("unicode_escape").decode()) == 4


def test_shown_rows_are_evenly_spaced():
    samples = [sample(f"row-{i}", "The fox.") for i in range(9)]
    text = shown(samples, rows=3)
    assert [i for i in range(9) if f"row-{i} " in text] == [0, 4, 8]
    assert "row-" not in shown(samples, rows=0)


def test_lengths_are_summarised():
    samples = [sample(f"r{i}", "fox " * (i + 1)) for i in range(20)]
    encoded, _ = encode(samples, make.chatml_tokenizer(), 1000)
    text = shown(samples)
    assert f"minimum {encoded.lengths.min()}, " in text
    assert f"maximum {encoded.lengths.max()}" in text
    assert f"{encoded.lengths.sum():,} tokens, {encoded.mask.sum():,} of them in responses" in text
    assert sum(int(line.split()[-1]) for line in text.splitlines() if "█" in line) == 20


def test_truncated_and_dropped_rows_count_as_reaching_max_length():
    samples = [sample("short", "fox"), sample("cut", "fox " * 90), sample("gone", "fox " * 90)]
    samples[2] = Sample("gone", (Message("user", "who " * 300), samples[2].messages[1]), "web", {})
    text = shown(samples, max_length=80)
    assert "66.7% of the rows reach max_length 80 (1 were dropped)" in text
    assert "2 of 3 rows are usable" in text


def test_drops_are_counted_by_reason_with_examples():
    drops = [Drop(f"d{i}", "web", "not_text" if i else "empty_response", "", {}) for i in range(6)]
    lines = [line for line in shown([sample("r", "fox")], drops).splitlines() if "not_text" in line]
    assert "5" in lines[0]
    assert "d1, d2, d3" in lines[0]
    assert "d4" not in lines[0]


def test_no_rows_are_no_error():
    assert "0 of 0 rows" in shown([])
