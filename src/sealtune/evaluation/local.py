"""A judge model in this process: the same questions, answered by greedy generation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sealtune.core.config import Config, JudgeConfig
from sealtune.core.errors import UserError
from sealtune.data.encode import encode_prompt
from sealtune.evaluation.ask import OnOutcome
from sealtune.evaluation.generate import generate
from sealtune.evaluation.judge_protocol import Failure, Question, Reply
from sealtune.models.load import load_model, load_tokenizer, model_fingerprint

Encoded = tuple[str, list[int]]
"""Key and token ids of a question."""


class LocalModel:
    """A folder, a GGUF file or a hub id. It is loaded only if a question is not cached."""

    def __init__(self, config: JudgeConfig) -> None:
        """Raises UserError if nothing exists at the model's path."""
        self.config = config
        self.source = Config(model_name_or_path=config.model or "", model_revision=config.revision)
        self.identity: Mapping[str, Any] = {
            "model": config.model,
            "revision": model_fingerprint(self.source),
            "base_url": None,
            "temperature": 0,
            "max_tokens": config.max_tokens,
        }

    @property
    def changes(self) -> Mapping[str, Any]:
        """Nothing: greedy decoding, with the limit as it is."""
        return {}

    def prepare(self, questions: Sequence[Question]) -> None:
        """Check, without loading the model, that it exists and can be asked these questions. Raises UserError."""
        tokenizer = load_tokenizer(self.source)
        for question in questions:
            _encode(tokenizer, question)

    def send(self, questions: Mapping[str, Question], on_outcome: OnOutcome) -> None:
        """Answer all questions, in batches. Raises UserError if the model cannot be loaded."""
        tokenizer, model = load_tokenizer(self.source), load_model(self.source)
        longest = getattr(model.config, "max_position_embeddings", 2**31) - self.config.max_tokens
        encoded = [(key, _encode(tokenizer, question)) for key, question in questions.items()]
        for key, tokens in encoded:
            if len(tokens) > longest:
                reason = f"{len(tokens)} tokens and max_tokens are more than the model's context"
                on_outcome(key, Failure(reason, question_specific=True))
        for batch in _batches([item for item in encoded if len(item[1]) <= longest], self.config.max_concurrency):
            answers = generate(
                model,
                [tokens for _, tokens in batch],
                tokenizer=tokenizer,
                max_new_tokens=self.config.max_tokens,
                batch_size=len(batch),
            )
            for (key, _), (text, _, finished) in zip(batch, answers, strict=True):
                on_outcome(key, Reply(text, "stop" if finished else "length"))


def _encode(tokenizer: Any, question: Question) -> list[int]:
    """Token ids of the chat. More than a single user turn needs the classifier's own chat template."""
    if len(question.messages) == 1 and not question.chat_template_kwargs:
        return encode_prompt(tokenizer, question.messages[0]["content"], opened=True)
    if not tokenizer.chat_template:
        raise UserError(f"evaluate.judges: {question.judge}: the model has no chat template of its own")
    tokens: list[int] = tokenizer.apply_chat_template(
        list(question.messages), add_generation_prompt=True, return_dict=False, **question.chat_template_kwargs
    )
    return tokens


def _batches(items: list[Encoded], size: int) -> Iterator[list[Encoded]]:
    """Batches of questions of similar length, the longest first."""
    ordered = sorted(items, key=lambda item: -len(item[1]))
    return (ordered[i : i + size] for i in range(0, len(ordered), size))
