"""Whether the model has an embedding for every token of its tokenizer."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sealtune.core.errors import UserError
from sealtune.models.checkpoint_files import shorten

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def require_embedded(tokenizer: PreTrainedTokenizerBase, model_config: PreTrainedConfig, name: str) -> None:
    """Raise UserError if a row can have tokens that the model has no embedding for.

    A special token that the chat template never writes cannot be in a row (Gemma 3 has one for images): it is logged.

    Args:
        tokenizer: The tokenizer.
        model_config: The model's config.json.
        name: How the user names the model.
    """
    size = getattr(model_config.get_text_config(), "vocab_size", None)
    if not isinstance(size, int):
        return
    beyond = {token: i for token, i in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]) if i >= size}
    if not beyond:
        return
    reachable = [token for token, i in beyond.items() if _can_occur(tokenizer, token, i)]
    listed = shorten([f"{token!r} ({beyond[token]})" for token in reachable or beyond])
    if reachable:
        raise UserError(
            f"model_name_or_path: {name} has an embedding for {size:,} tokens, and its tokenizer has others: {listed}; "
            "call model.resize_token_embeddings(len(tokenizer)) and save the model, or take its original tokenizer"
        )
    logger.warning("%s has no embedding for %s; the chat template never writes it", name, listed)


def _can_occur(tokenizer: PreTrainedTokenizerBase, token: str, number: int) -> bool:
    added = tokenizer.added_tokens_decoder.get(number)
    named = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    return added is None or not added.special or number in named or token in str(tokenizer.chat_template)
