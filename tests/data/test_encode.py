import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import chat_tokenizers as make
from sealtune.core.errors import UserError
from sealtune.core.types import Message, Sample
from sealtune.data.chat_template import DEFAULT_TEMPLATE, ensure_chat_template
from sealtune.data.encode import encode, encode_prompt
from sealtune.data.render import render
from sealtune.data.tokenizer import tokenize

ALL = {
    "chatml": make.chatml_tokenizer,
    "trim_offsets": lambda: make.chatml_tokenizer(trim_offsets=True),
    "llama3": make.llama3_tokenizer,
    "gemma": make.gemma_tokenizer,
    "thinking": make.thinking_tokenizer,
    "phi": make.phi_tokenizer,
    "mistral": make.mistral_tokenizer,
    "default": make.bare_tokenizer,
}
END = {
    "llama3": "<|eot|>",
    "gemma": "<end_of_turn>",
    "phi": "<|end|>",
    "mistral": "</s>",
    "default": "</s>",
}

SPECIALS = ["<|im_end|>", "<|im_start|>", "<|im_", "end|>", "<|eot|>", "</s>", "<s>", "<start_of_turn>", "<|end|>"]
plain_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
hostile_text = st.lists(st.one_of(st.sampled_from(SPECIALS), st.text("ab |<>\n\U000f0000\U00100000", max_size=4))).map(
    "".join
)


def sample(*turns, name="row"):
    return Sample(name, tuple(Message(*turn) for turn in turns), "source", {})


def pair(prompt, response):
    return sample(("user", prompt), ("assistant", response))


def encode_one(tokenizer, row, max_length=10_000, overlong_rows="truncate"):
    encoded, drops = encode([row], tokenizer, max_length, overlong_rows)
    assert not drops, drops
    return encoded.row(0)


def without_whitespace(text):
    return "".join(text.split())


def reason(tokenizer, row, *options):
    encoded, drops = encode([row], tokenizer, *(options or (10_000,)))
    assert not len(encoded)
    return drops[0].reason


def template_ids(tokenizer, *turns):
    return tokenizer.apply_chat_template([{"role": role, "content": content} for role, content in turns])["input_ids"]


@pytest.mark.parametrize("name", ALL)
def test_ids_are_those_of_the_chat_template_up_to_the_last_response(name):
    tokenizer = ALL[name]()
    turns = [("user", " Hi  there\n"), ("assistant", " Yes: 4.\n"), ("user", "So?"), ("assistant", "é 😀\n\n fox ")]
    ids, mask = encode_one(tokenizer, sample(*turns))
    expected = template_ids(tokenizer, *turns)
    assert ids.tolist() == expected[: len(ids)]
    assert not tokenizer.decode(expected[len(ids) :]).strip()
    assert mask[-1]


@pytest.mark.parametrize("name", ALL)
def test_the_loss_mask_covers_the_responses_and_their_end_tokens_only(name):
    tokenizer, end = ALL[name](), END.get(name, "<|im_end|>")
    turns = [("user", "Who?"), ("assistant", "The fox."), ("user", "So?"), ("assistant", "A dog, too.")]
    ids, mask = encode_one(tokenizer, sample(*turns))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
    masked = [tokenizer.decode(ids[start:stop]) for start, stop in edges.reshape(-1, 2)]
    assert [text.strip() for text in masked] == [f"The fox.{end}", f"A dog, too.{end}"]


def test_chatml_text_is_as_expected():
    ids, mask = encode_one(make.chatml_tokenizer(), pair("Hi", "Yes"))
    assert make.chatml_tokenizer().decode(ids) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>"
    )
    assert mask.sum() == len(tokenize(make.chatml_tokenizer(), ["Yes<|im_end|>"])[0].ids)


def test_a_space_that_belongs_to_the_first_response_token_is_in_the_mask():
    tokenizer = make.mistral_tokenizer()
    ids, mask = encode_one(tokenizer, pair("So?", "user"))
    first = tokenizer.convert_ids_to_tokens(int(ids[mask][0]))
    assert first.startswith("▁")
    assert encode_prompt(tokenizer, "So?") == ids[~mask].tolist()


@settings(max_examples=80, deadline=None)
@given(prompt=plain_text, response=plain_text.filter(str.strip))
@pytest.mark.parametrize("trim_offsets", [False, True])
def test_masked_tokens_are_the_response_and_its_end_token(trim_offsets, prompt, response):
    tokenizer = make.chatml_tokenizer(trim_offsets)
    ids, mask = encode_one(tokenizer, pair(prompt, response))
    expected, masked = response + "<|im_end|>", tokenizer.decode(ids[mask])
    assert expected.endswith(masked)
    assert not expected.removesuffix(masked).strip()  # whitespace that shares a token with the template's line break
    if response[0] != " " and response.lstrip() == response:
        assert masked == expected


@settings(max_examples=40, deadline=None)
@given(prompt=hostile_text, response=hostile_text.filter(str.strip), system=hostile_text)
@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma", "phi", "default", "mistral"])
def test_special_tokens_in_a_row_are_plain_text(name, prompt, response, system):
    tokenizer = ALL[name]()
    turns = [("system", system), ("user", prompt), ("assistant", response)]
    encoded, drops = encode([sample(*turns)], tokenizer, 10_000)
    if drops:  # the placeholder characters, in a row that also spells out special tokens
        assert "\U00100000" in prompt + response + system
        assert drops[0].reason == "special_token_in_text"
        return
    ids, mask = encoded.row(0)
    special = set(tokenizer.added_tokens_decoder)
    harmless = [("system", "s"), ("user", "u"), ("assistant", "a")]
    expected, _ = encode_one(tokenizer, sample(*harmless))
    assert [i for i in ids.tolist() if i in special] == [i for i in expected.tolist() if i in special]
    masked = tokenizer.decode(ids[mask])
    assert without_whitespace(masked) == without_whitespace(response + END.get(name, "<|im_end|>"))


@pytest.mark.parametrize("name", ["chatml", "trim_offsets", "llama3", "gemma", "phi", "mistral"])
def test_hostile_and_ordinary_rows_get_the_same_tokens(name):
    tokenizer = ALL[name]()
    hostile, mask = encode_one(tokenizer, sample(("user", "</s><|im_end|> x"), ("assistant", "The fox <bos> <|eot|>")))
    encoded, same = encode_one(tokenizer, sample(("user", "Hi"), ("assistant", "The fox")))
    size = tokenize(tokenizer, ["The"])[0].ids.size
    assert hostile[mask][:size].tolist() == encoded[same][:size].tolist()
    assert hostile[mask][-1] == encoded[same][-1]


def test_whitespace_tokens_without_width_start_where_the_previous_token_ends():
    wide, trimmed = (tokenize(make.chatml_tokenizer(trim), ["a   b <|im_end|>"])[0] for trim in (False, True))
    spaces = [i for i, token in enumerate(wide.ids.tolist()) if not make.chatml_tokenizer().decode([token]).strip()]
    assert len(spaces) >= 2
    assert trimmed.ids.tolist() == wide.ids.tolist()
    assert trimmed.starts[spaces].tolist() == wide.starts[spaces].tolist()


def test_contents_that_the_template_trims_are_found():
    tokenizer = make.llama3_tokenizer()
    ids, mask = encode_one(tokenizer, pair(" x ", "\n The fox. \n"))
    assert tokenizer.decode(ids[mask]) == "The fox.<|eot|>"
    ids, mask = encode_one(make.thinking_tokenizer(), pair(" x ", "\n\n The fox. \n"))
    assert make.thinking_tokenizer().decode(ids[mask]).strip() == "The fox. \n<|im_end|>"


def test_the_system_prompt_is_merged_if_the_template_has_no_system_role():
    tokenizer = make.gemma_tokenizer()
    rendered = render(tokenizer, [Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Yes")])
    assert rendered.text.startswith("<bos><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>")
    without_user = render(tokenizer, [Message("system", "Be kind."), Message("assistant", "Yes")])
    assert without_user.text.startswith("<bos><start_of_turn>user\nBe kind.<end_of_turn>")


def test_rows_that_the_template_changes_or_refuses_are_dropped():
    assert reason(make.thinking_tokenizer(), pair("a", "<think>b</think>\n\nc")) == "thinking_left_out"
    assert reason(make.gemma_tokenizer(), sample(("assistant", "a"))) == "template_refuses"


def test_sentinels_do_not_occur_in_the_row():
    tokenizer = make.chatml_tokenizer()
    text = "".join(map(chr, range(0xF0000, 0xF0010)))
    ids, mask = encode_one(tokenizer, pair(text, text))
    assert tokenizer.decode(ids[mask]) == f"{text}<|im_end|>"


def test_turns_after_the_last_response_are_removed():
    tokenizer = make.gemma_tokenizer()
    short = encode_one(tokenizer, pair("Hi", "Yes"))
    longer = encode_one(tokenizer, sample(("user", "Hi"), ("assistant", "Yes"), ("user", "a"), ("user", "b")))
    assert longer[0].tolist() == short[0].tolist()
    assert reason(tokenizer, sample(("user", "Hi"))) == "no_assistant_turn"


def test_long_rows_are_truncated_on_the_right_or_dropped():
    tokenizer, row = make.chatml_tokenizer(), pair("Hi", "one two three four five six seven")
    ids, mask = encode_one(tokenizer, row)
    first = int(np.flatnonzero(mask)[0])
    truncated, truncated_mask = encode_one(tokenizer, row, first + 4)
    assert truncated.tolist() == ids[: first + 4].tolist()
    assert truncated_mask.sum() == 4
    assert reason(tokenizer, row, first + 3) == "too_long"
    assert reason(tokenizer, row, len(ids) - 1, "drop") == "too_long"
    assert len(encode_one(tokenizer, row, len(ids), "drop")[0]) == len(ids)


def test_only_the_last_response_must_survive_truncation():
    tokenizer = make.chatml_tokenizer()
    turns = [
        ("user", "Hi"),
        ("assistant", "The quick brown fox."),
        ("user", "So? " * 9),
        ("assistant", "The lazy dog."),
    ]
    _, mask = encode_one(tokenizer, sample(*turns))
    last_starts = int(np.flatnonzero(~mask)[-1]) + 1
    assert reason(tokenizer, sample(*turns), last_starts) == "too_long"


def test_a_response_without_tokens_is_dropped():
    from tokenizers import normalizers

    tokenizer = make.bare_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("z", "")
    assert reason(tokenizer, pair("a", "zzz")) == "empty_response"


def test_batches_keep_the_order_and_ids_of_rows(monkeypatch):
    monkeypatch.setattr("sealtune.data.encode.BATCH_ROWS", 3)
    texts = ["one", "two <|im_end|>", "<think></think>", "four", "five", "six <|im_start|>", "seven"]
    rows = [sample(("user", "a"), ("assistant", text), name=text) for text in texts]
    tokenizer = make.thinking_tokenizer()
    encoded, drops = encode(rows, tokenizer, 1000)
    assert encoded.ids == tuple(text for text in texts if "think" not in text)
    assert [drop.id for drop in drops] == ["<think></think>"]
    for i, name in enumerate(encoded.ids):
        ids, mask = encoded.row(i)
        assert tokenizer.decode(ids[mask]) == f"{name}<|im_end|>"
    assert encoded.source == ("source",) * 6
    assert len(encode([], tokenizer, 10)[0]) == 0


def test_the_default_template_is_set_if_missing_and_used_for_generation_too():
    tokenizer = make.bare_tokenizer()
    ensure_chat_template(tokenizer)
    assert tokenizer.chat_template == DEFAULT_TEMPLATE
    assert tokenizer.decode(encode_prompt(tokenizer, "Hi")) == "<s>### User:\nHi\n\n### Assistant:\n"
    rendered = render(tokenizer, [Message("system", "s"), Message("user", "u"), Message("assistant", "a")])
    assert rendered.text == "<s>### System:\ns\n\n### User:\nu\n\n### Assistant:\na</s>\n\n"
    existing = make.chatml_tokenizer().chat_template
    ensure_chat_template(make.chatml_tokenizer())
    assert make.chatml_tokenizer().chat_template == existing


@pytest.mark.parametrize("name", ALL)
def test_a_prompt_has_the_tokens_before_the_response(name):
    tokenizer = ALL[name]()
    prompt = "Who <|im_end|> </s> <|eot|> jumps?"
    ids, mask = encode_one(tokenizer, pair(prompt, "fox"))
    assert encode_prompt(tokenizer, prompt) == ids[: int(np.flatnonzero(mask)[0])].tolist()
    assert "fox" not in tokenizer.decode(encode_prompt(tokenizer, prompt))


def test_errors_that_a_user_can_fix(monkeypatch):
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="not a fast one"):
        encode([pair("a", "b")], Slow(), 10)
    tokenizer = make.bare_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(UserError, match="prompt 'Hi': the chat template: never"):
        encode_prompt(tokenizer, "Hi")
