"""Answers of a model that a server holds (vLLM, ``transformers serve``, a vendor), in place of one loaded here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sealtune.core.config import EvaluateConfig
from sealtune.core.errors import RunError
from sealtune.core.types import Prompt, Response
from sealtune.evaluation.ask import Cache, ask
from sealtune.evaluation.endpoint import Endpoint
from sealtune.evaluation.judge_protocol import Failure, Question, Reply

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sealtune.core.console import Advance


def server_of(name: str, settings: EvaluateConfig) -> Endpoint:
    """Where ``base`` or ``tuned`` is asked; greedy, as here. Raises UserError where the key's variable is not set."""
    return Endpoint(settings.endpoints[name].model_copy(update={"max_tokens": settings.max_new_tokens}))


def answer(
    name: str,
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    settings: EvaluateConfig,
    cache: Cache,
    advance: Advance,
) -> list[Response]:
    """The model's answer to each prompt, in order. Those that were paid for are kept.

    Raises:
        RunError: the server is gone, or a prompt got no answer.
    """
    questions = [Question(f"answer of {name}", "", ({"role": "user", "content": p.prompt},)) for p in prompts]
    outcomes = ask(questions, server_of(name, settings), cache, advance)
    if failed := [outcome for outcome in outcomes if isinstance(outcome, Failure)]:
        raise RunError(
            f"evaluate: {len(failed)} of {len(prompts)} prompts got no answer of {name}: {failed[0].reason}; run the "
            "same command again: answers that came are kept"
        )
    told = zip(prompts, (o for o in outcomes if isinstance(o, Reply)), strict=True)
    return [_response(name, prompt, reply, tokenizer) for prompt, reply in told]


def _response(name: str, prompt: Prompt, reply: Reply, tokenizer: PreTrainedTokenizerBase) -> Response:
    text = reply.text or reply.refusal  # some servers have a field of its own for a refusal
    tokens = len(tokenizer.encode(text, add_special_tokens=False))
    return Response(prompt.id, name, prompt.set, prompt.kind, prompt.prompt, text, tokens, reply.finish == "stop")
