"""Answers to prompts: greedy decoding, in batches, on the device of the model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from sealtune.models.continuations import evaluating

logger = logging.getLogger(__name__)

PADDING_TRIED = 5
"""Padding on the left with which it is tried whether a model ignores it."""

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
    answers: dict[int, Answer] = {}
    with evaluating(model):
        for rows, new in generate_tokens(model, encoded_prompts, ends, tokenizer, max_new_tokens, batch_size):
            batch = [_read_answer(tokens, ends, tokenizer) for tokens in new]
            answers.update(zip(rows, batch, strict=True))
            if on_batch is not None:
                on_batch(len(answers), len(encoded_prompts), sum(count for _, count, _ in batch))
    return [answers[i] for i in range(len(encoded_prompts))]


def generate_tokens(
    model: Any,
    prompts: Sequence[list[int]],
    ends: list[int],
    tokenizer: Any,
    max_new_tokens: int,
    batch_size: int,
) -> Iterator[tuple[Sequence[int], list[list[int]]]]:
    """Greedy answers of a model in evaluation mode, batch by batch.

    Yields:
        Positions of the prompts of a batch, and the new tokens of each, padded to the longest answer of the batch.
    """
    # Longest first: running out of memory happens at once, and padding is minimal.
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for rows in _batches(model, prompts, order, batch_size):
        yield rows, _generate_batch(model, [prompts[i] for i in rows], ends, tokenizer, max_new_tokens)


def _batches(
    model: Any, prompts: Sequence[list[int]], order: Sequence[int], batch_size: int
) -> Iterator[Sequence[int]]:
    """The rows of each batch, in order; of one length each, if the model computes something else beside padding."""
    start = 0
    padded = len({len(prompt) for prompt in prompts}) < 2 or _ignores_padding(model, prompts[order[-1]])
    while start < len(order):
        stop = min(start + batch_size, len(order))
        if not padded:
            alike = [i for i in order[start:stop] if len(prompts[i]) == len(prompts[order[start]])]
            stop = start + len(alike)
        yield order[start:stop]
        start = stop


def _ignores_padding(model: Any, prompt: list[int]) -> bool:
    """Whether the first new token has the same logits with padding on the left as without.

    It has not where positions are counted from the start of the row, or a recurrent state runs over the padding.
    """

    def first_logits(padding: int) -> torch.Tensor:
        tokens = torch.tensor([[0] * padding + prompt], device=model.device)
        mask = torch.tensor([[0] * padding + [1] * len(prompt)], device=model.device)
        output = model.generate(
            input_ids=tokens,
            attention_mask=mask,
            max_new_tokens=1,
            do_sample=False,
            num_beams=1,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        logits: torch.Tensor = output.logits[0][0].float()
        return logits

    alone, padded = first_logits(0), first_logits(PADDING_TRIED)
    if torch.allclose(alone, padded, rtol=0.05, atol=0.05 * float(alone.abs().max())):
        return True
    logger.info("this model computes something else beside padding: prompts are asked in batches of one length")
    return False


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
