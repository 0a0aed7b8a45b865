"""Scores many continuations of many prompts in one forward pass: what they have in common is computed once.

The tokens of all continuations form a tree, and one such tree hangs below each prompt. Prompts begin alike, with the
template's own words and often with the same system prompt. So a row holds that beginning, then the rest of each
prompt, each followed by the nodes of its tree; the attention mask lets a token see the common beginning and its own
ancestors, and its position is that in its prompt and continuation. Nothing is padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sealtune.models.continuations import Network, Tokens
from sealtune.models.losses import CHUNK_LOGITS

OWN_TOKENS = 320
"""Most tokens of a row beside the common beginning, if it holds several prompts. More of them share the beginning, but
the time of attention grows with the square: of a 135M and a 0.5B model, eight to ten short prompts cost least."""


class PrefixTree(NamedTuple):
    """The tree of K continuations: N nodes, the M nodes with children first.

    Attributes:
        tokens: Token ids (N,).
        parents: Index of each node's parent, (N,); -1 below the prompt.
        depths: Distance from the prompt, (N,), from 0.
        visible: Whether node i sees node j: itself and its ancestors, bool (N, N).
        paths: The nodes of each continuation, K of them.
        inner: M. Only these nodes pass through the model: nothing is predicted after a leaf.
    """

    tokens: Tensor
    parents: Tensor
    depths: Tensor
    visible: Tensor
    paths: tuple[tuple[int, ...], ...]
    inner: int


def build_tree(continuations: Sequence[Tokens]) -> PrefixTree:
    """The tree of these continuations; each has at least one token."""
    beginnings = {tuple(c[:length]) for c in continuations for length in range(1, len(c) + 1)}
    with_children = {beginning[:-1] for beginning in beginnings} - {()}
    nodes = sorted(beginnings, key=lambda node: (node not in with_children, len(node), node))
    index = {node: i for i, node in enumerate(nodes)}
    visible = torch.zeros(len(nodes), len(nodes), dtype=torch.bool)
    for i, node in enumerate(nodes):
        visible[i, [index[node[:length]] for length in range(1, len(node) + 1)]] = True
    return PrefixTree(
        tokens=torch.tensor([node[-1] for node in nodes]),
        parents=torch.tensor([index.get(node[:-1], -1) for node in nodes]),
        depths=torch.tensor([len(node) - 1 for node in nodes]),
        visible=visible,
        paths=tuple(tuple(index[tuple(c[:n])] for n in range(1, len(c) + 1)) for c in continuations),
        inner=len(with_children),
    )


class Row(NamedTuple):
    """Prompts and their trees as one row of T tokens.

    Attributes:
        tokens: Token ids (T,).
        positions: Position ids (T,).
        visible: Whether token i sees token j, bool (T, T).
        predicting: Where the first token of a continuation, and the children of each inner node, are predicted:
            (prompts of the row, 1 + M).
    """

    tokens: Tensor
    positions: Tensor
    visible: Tensor
    predicting: Tensor


def tree_log_probs(network: Network, prompts: Sequence[Tokens], tree: PrefixTree) -> Tensor:
    """log p(continuation | prompt), (B, K), float32 on the CPU, in nats.

    Args:
        network: Its attention takes four-dimensional masks; not every implementation does.
        prompts: B prompts, each with at least one token. Neighbours share a forward pass, see ``OWN_TOKENS``.
        tree: The continuations.
    """
    found = []
    for group in _groups(prompts, tree):
        row = lay_out(group, tree)
        blocked = torch.finfo(network.model.dtype).min
        mask = torch.zeros(row.visible.shape, dtype=network.model.dtype).masked_fill(~row.visible, blocked)
        (states,) = network.states(
            row.tokens[None].to(network.device),
            attention_mask=mask[None, None].to(network.device),
            position_ids=row.positions[None].to(network.device),
        )
        nodes = _node_log_probs(network, states[row.predicting.to(states.device)], tree)
        found.append(torch.stack([nodes[:, list(path)].sum(1) for path in tree.paths], 1))
    return torch.cat(found)


def _groups(prompts: Sequence[Tokens], tree: PrefixTree) -> Iterator[list[Tokens]]:
    """The prompts in order, as many together as share a row."""
    group: list[Tokens] = []
    for prompt in prompts:
        group.append(prompt)
        if len(group) > 1 and _own_tokens(group, tree) > OWN_TOKENS:
            yield group[:-1]
            group = [prompt]
    yield group


def _own_tokens(prompts: Sequence[Tokens], tree: PrefixTree) -> int:
    shared = _shared_tokens(prompts)
    return sum(len(prompt) - shared + tree.inner for prompt in prompts)


def _shared_tokens(prompts: Sequence[Tokens]) -> int:
    """Tokens with which all prompts begin; the last one of each prompt is its own."""
    shortest = min(map(len, prompts)) - 1
    first = prompts[0]
    return next((i for i in range(shortest) if any(p[i] != first[i] for p in prompts)), shortest)


def lay_out(prompts: Sequence[Tokens], tree: PrefixTree) -> Row:
    """The prompts, and a tree below each of them, as a row."""
    shared, inner = _shared_tokens(prompts), tree.inner
    nodes, depths = tree.tokens[:inner].tolist(), tree.depths[:inner].tolist()
    total = shared + _own_tokens(prompts, tree)
    visible = torch.zeros(total, total, dtype=torch.bool)
    visible[:, :shared] = True
    visible[:shared, :shared] = visible[:shared, :shared].tril()
    tokens, positions, predicting = list(prompts[0][:shared]), list(range(shared)), []
    for prompt in prompts:
        start, end = len(tokens), len(tokens) + len(prompt) - shared
        tokens += [*prompt[shared:], *nodes]
        positions += [*range(shared, len(prompt)), *(len(prompt) + depth for depth in depths)]
        visible[start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
        visible[end : end + inner, start:end] = True
        visible[end : end + inner, end : end + inner] = tree.visible[:inner, :inner]
        predicting.append([*range(end - 1, end + inner)])
    return Row(torch.tensor(tokens), torch.tensor(positions), visible, torch.tensor(predicting))


def _node_log_probs(network: Network, states: Tensor, tree: PrefixTree) -> Tensor:
    """Log-probability (B, N) of each node after its parent, given states (B, 1 + M, ...), on the CPU."""
    parents, tokens = (tree.parents + 1).to(states.device), tree.tokens.to(states.device)
    vocabulary = network.logits(states[0, :1]).shape[-1]
    found = []
    for chunk in torch.split(states, max(1, CHUNK_LOGITS // (vocabulary * states.shape[1]))):
        logits = network.logits(chunk.flatten(0, 1)).reshape(*chunk.shape[:2], vocabulary)
        normalizers = logits.logsumexp(2)
        found.append((logits[:, parents, tokens] - normalizers[:, parents]).cpu())
    return torch.cat(found)
