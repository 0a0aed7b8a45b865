"""The length that a model allows, in each family's spelling."""

import pytest
from transformers import (
    BioGptConfig,
    BloomConfig,
    FalconConfig,
    Gemma3Config,
    GPT2Config,
    GPTBigCodeConfig,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MptConfig,
    OPTConfig,
    RwkvConfig,
)

from helpers.chat_tokenizers import chatml_tokenizer
from sealtune.models.lengths import find_limit, positions


@pytest.fixture(scope="module")
def unlimited():
    return chatml_tokenizer()


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_positions=48),
        GPTBigCodeConfig(n_positions=48),
        GPTJConfig(n_positions=48),
        GPTNeoConfig(max_position_embeddings=48),
        GPTNeoXConfig(max_position_embeddings=48),
        BioGptConfig(max_position_embeddings=48),
        OPTConfig(max_position_embeddings=48),
        LlamaConfig(max_position_embeddings=48),
        FalconConfig(max_position_embeddings=48),
        MptConfig(max_seq_len=48),
        RwkvConfig(context_length=48),
        Gemma3Config(text_config={"max_position_embeddings": 48}),
    ],
    ids=lambda config: config.model_type,
)
def test_every_family_states_its_positions(config, unlimited):
    assert find_limit(config, unlimited).tokens == 48


@pytest.mark.parametrize("config", [BloomConfig(), MambaConfig()], ids=lambda config: config.model_type)
def test_families_without_positions_have_no_limit(config, unlimited):
    assert find_limit(config, unlimited) is None


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"type": "linear", "factor": 4.0}, 400),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 50}, 200),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 50}, 100),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 50}, 100),
        ({"rope_type": "default"}, 100),
        ({"full_attention": {"rope_type": "linear", "factor": 8.0}}, 100),
        (None, 100),
    ],
)
def test_rotary_scaling_adds_positions_where_the_config_states_those_before_it(rope, expected):
    assert positions({"max_position_embeddings": 100, "rope_scaling": rope}) == expected


@pytest.mark.parametrize("value", [None, -1, 0, True, "many", 10.5])
def test_what_is_no_number_of_positions_is_no_limit(value):
    assert positions({"n_positions": value}) is None


def test_the_tokenizers_limit_counts_if_it_is_smaller():
    tokenizer = chatml_tokenizer()
    tokenizer.model_max_length = 32
    limit = find_limit(LlamaConfig(max_position_embeddings=48), tokenizer)
    assert limit.tokens == 32 and "model_max_length" in limit.of
    tokenizer.model_max_length = 64
    assert find_limit(LlamaConfig(max_position_embeddings=48), tokenizer).tokens == 48
    assert find_limit(MambaConfig(), tokenizer).tokens == 64
