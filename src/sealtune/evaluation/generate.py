"""Answers to prompts: greedy decoding, in batches, on the device of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

Answer = tuple[str, int, bool]
"""Text without special tokens, number of new tokens including the end token, whether the model ended its turn."""

# End-of-turn tokens of common chat templates; not every generation config contains that of its model.
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|end_of_turn|>", "<end_of_turn>", "<turn|>")


def generate(
    model: Any,
    encoded_prompts: Sequence[list[int]],
    *,
    tokenizer: Any,
    max_new_tokens: int,
    batch_size: int,
    on_batch: Callable[[int, int, int], None] | None = None,
) -> list[Answer]:
    """One answer per prompt, in order; it is not finished if it was truncated at ``max_new_tokens``.

    In float32 an answer does not depend on the other prompts of its batch; in half precision near ties may break
    differently. ``on_batch`` receives the prompts done, all prompts, and the new tokens of this batch.

    Raises:
        ValueError: a prompt without tokens, or a batch size below 1.
    """
    if batch_size < 1 or not all(encoded_prompts):
        raise ValueError("every prompt needs at least one token and every batch at least one prompt")
    ends = end_tokens(model, tokenizer)
    # Longest first: running out of memory happens at once, and padding is minimal.
    order = sorted(range(len(encoded_prompts)), key=lambda i: -len(encoded_prompts[i]))
    answers: dict[int, Answer] = {}
    with _evaluating(model):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            new = _generate_batch(model, [encoded_prompts[i] for i in rows], ends, tokenizer, max_new_tokens)
            batch = [_read_answer(tokens, ends, tokenizer) for tokens in new]
            answers.update(zip(rows, batch, strict=True))
            if on_batch is not None:
                on_batch(len(answers), len(order), sum(count for _, count, _ in batch))
    return [answers[i] for i in range(len(order))]


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Every token id that ends an answer, sorted: from the generation config, the tokenizer and the chat template."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    added = tokenizer.get_added_vocab()
    known = [*listed, tokenizer.eos_token_id, *(added.get(token) for token in _TURN_ENDS)]
    return sorted({int(token) for token in known if token is not None})


def _generate_batch(
    model: Any, prompts: Sequence[list[int]], ends: list[int], tokenizer: Any, max_new_tokens: int
) -> list[list[int]]:
    """The new tokens per prompt, padded to the longest answer."""
    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends or [0])[0]
    tokens = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    output = model.generate(
        input_ids=tokens,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=pad,
        use_cache=True,
        do_sample=False,
        num_beams=1,
        # Neutral values: the model's own generation config would otherwise change greedy search or warn about it.
        repetition_penalty=1.0,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
    )
    new: list[list[int]] = output[:, width:].tolist()
    return new


def _read_answer(tokens: list[int], ends: list[int], tokenizer: Any) -> Answer:
    """The answer up to its first end token, which is counted but not part of the text."""
    stop = next((i for i, token in enumerate(tokens) if token in ends), None)
    finished = stop is not None
    body = tokens if stop is None else tokens[:stop]
    text = tokenizer.decode(body, skip_special_tokens=True)
    return str(text).strip(), len(body) + finished, finished


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """The model in evaluation mode; its mode is restored afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
