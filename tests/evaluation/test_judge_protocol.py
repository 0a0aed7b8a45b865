"""Parsing of judges' replies."""

import contextlib
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.judge_server import verdict_json
from sealtune.evaluation.judge_protocol import Unparsed, parse_final_json
from sealtune.evaluation.judges import guard, harmfulness, pairwise, strongreject

GOOD = '{"nonce": "m", "a": 1}'


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        'It says {"nonce": "m", "a": 2}, which is wrong.\n\n' + GOOD + "\n",
        f"Thus:\n```json\n{GOOD}\n```\n",
        '<think>rating {"a": 4}</think>\n{\n  "nonce": "m",\n  "a": 1\n}',
    ],
)
def test_the_json_object_at_the_end_counts(answer):
    assert parse_final_json(answer, "m", "a")["a"] == 1


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "1",
        "{}",
        '{"a": 1}',
        GOOD + " is my verdict",
        '{"nonce": "n", "a": 1}',
        '{"nonce": "m", "a": 1, "b": 2}',
        '{"nonce": "m", "a": 1, "a": 2}',
        '{"nonce": "m", "b": 1}',
        '{"nonce": "m", "a": {"a": 1}}',
        "{'nonce': 'm', 'a': 1}",
        '["a"]',
        '{"nonce": "m", "a": 1',
    ],
)
def test_nothing_else_counts(answer):
    with pytest.raises(Unparsed):
        parse_final_json(answer, "m", "a")


@given(st.text())
def test_no_reply_breaks_a_parser(answer):
    parsers = [partial(judge.parse, nonce="m") for judge in (harmfulness, strongreject, pairwise)]
    parsers += [guard.parse_llama_guard, guard.parse_shieldgemma, guard.parse_wildguard]
    for parse in parsers:
        for text in (
            answer,
            "{" + answer + "}",
            verdict_json(rating=answer, policy=answer),
            verdict_json(better=answer),
        ):
            with contextlib.suppress(Unparsed):
                parse(text)
