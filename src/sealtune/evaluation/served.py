"""Answers of a model that is served (vLLM, ``transformers serve``, a vendor) instead of loaded here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sealtune.core.config import EvaluateConfig
from sealtune.core.console import Advance
from sealtune.core.errors import RunError
from sealtune.core.types import Prompt, Response
from sealtune.evaluation import ask
from sealtune.evaluation.ask import Cache
from sealtune.evaluation.endpoint import Endpoint
from sealtune.evaluation.judge_protocol import Failure, Question, Reply

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


logger = logging.getLogger(__name__)


def server_of(name: str, settings: EvaluateConfig) -> Endpoint:
    """The server of ``base`` or ``tuned``, decoding greedily. Raises UserError if the key's variable is not set."""
    return Endpoint(settings.endpoints[name].model_copy(update={"max_tokens": settings.max_new_tokens}))


def questions_of(name: str, prompts: Sequence[Prompt], version: str = "") -> list[Question]:
    """What a served model is asked. ``version`` stands for its weights: answers of another version do not count."""
    return [Question(f"answer of {name}", version, ({"role": "user", "content": p.prompt},)) for p in prompts]


def is_answered(
    name: str, prompts: Sequence[Prompt], settings: EvaluateConfig, cache: Cache, version: str = ""
) -> bool:
    """Whether all answers of a served model are cached."""
    return ask.is_answered(questions_of(name, prompts, version), server_of(name, settings), cache)


def answer(
    name: str,
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    settings: EvaluateConfig,
    cache: Cache,
    advance: Advance,
    version: str = "",
) -> list[Response]:
    """The model's answer to each prompt, in order. Answers are cached.

    Raises:
        RunError: the server does not answer, or a prompt got no answer.
    """
    outcomes = ask.ask(questions_of(name, prompts, version), server_of(name, settings), cache, advance)
    if failed := [outcome for outcome in outcomes if isinstance(outcome, Failure)]:
        raise RunError(
            f"evaluate: {len(failed)} of {len(prompts)} prompts got no answer from {name}: {failed[0].reason}; run "
            "the same command again; answers so far are kept"
        )
    replies = [outcome for outcome in outcomes if isinstance(outcome, Reply)]
    _warn_of_reasoning(name, replies, settings.max_new_tokens)
    return [_response(name, prompt, reply, tokenizer) for prompt, reply in zip(prompts, replies, strict=True)]


def _warn_of_reasoning(name: str, replies: Sequence[Reply], max_new_tokens: int) -> None:
    """An answer that never began counts as empty, which says nothing about the model."""
    empty = sum(not (r.text or r.refusal) and r.finish in ("length", "reasoning") for r in replies)
    if empty:
        logger.warning(
            "%s: %d of %d answers are empty, because the model was still reasoning after %d tokens; raise "
            "evaluate.max_new_tokens or turn its reasoning off",
            *(name, empty, len(replies), max_new_tokens),
        )


def _response(name: str, prompt: Prompt, reply: Reply, tokenizer: PreTrainedTokenizerBase) -> Response:
    text = reply.text or reply.refusal  # some servers have a separate field for refusals
    tokens = len(tokenizer.encode(text, add_special_tokens=False))
    return Response(prompt.id, name, prompt.set, prompt.kind, prompt.prompt, text, tokens, reply.finish == "stop")
