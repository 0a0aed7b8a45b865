"""Answers of a model that is served (vLLM, ``transformers serve``, a vendor) instead of loaded here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sealtune.core.config import EvaluateConfig
from sealtune.core.console import Advance
from sealtune.core.errors import RunError
from sealtune.core.types import Prompt, Response
from sealtune.evaluation.ask import Cache, ask
from sealtune.evaluation.endpoint import Endpoint
from sealtune.evaluation.judge_protocol import Failure, Question, Reply

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def server_of(name: str, settings: EvaluateConfig) -> Endpoint:
    """The server of ``base`` or ``tuned``, decoding greedily. Raises UserError if the key's variable is not set."""
    return Endpoint(settings.endpoints[name].model_copy(update={"max_tokens": settings.max_new_tokens}))


def answer(
    name: str,
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    settings: EvaluateConfig,
    cache: Cache,
    advance: Advance,
) -> list[Response]:
    """The model's answer to each prompt, in order. Answers are cached.

    Raises:
        RunError: the server does not answer, or a prompt got no answer.
    """
    questions = [Question(f"answer of {name}", "", ({"role": "user", "content": p.prompt},)) for p in prompts]
    outcomes = ask(questions, server_of(name, settings), cache, advance)
    if failed := [outcome for outcome in outcomes if isinstance(outcome, Failure)]:
        raise RunError(
            f"evaluate: {len(failed)} of {len(prompts)} prompts got no answer from {name}: {failed[0].reason}; run "
            "the same command again; answers so far are kept"
        )
    replies = (outcome for outcome in outcomes if isinstance(outcome, Reply))
    return [_response(name, prompt, reply, tokenizer) for prompt, reply in zip(prompts, replies, strict=True)]


def _response(name: str, prompt: Prompt, reply: Reply, tokenizer: PreTrainedTokenizerBase) -> Response:
    text = reply.text or reply.refusal  # some servers have a separate field for refusals
    tokens = len(tokenizer.encode(text, add_special_tokens=False))
    return Response(prompt.id, name, prompt.set, prompt.kind, prompt.prompt, text, tokens, reply.finish == "stop")
