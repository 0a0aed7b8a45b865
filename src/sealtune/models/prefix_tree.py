"""Scores many continuations of a prompt in one forward pass: what they have in common is computed once.

The tokens of all continuations form a tree below the prompt. The row is the prompt, followed by the nodes of the tree;
the attention mask lets a node see the prompt and its own ancestors, and its position is that in its continuation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sealtune.models.continuations import Network, Tokens, pad_right
from sealtune.models.losses import CHUNK_LOGITS


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


def tree_log_probs(network: Network, prompts: Sequence[Tokens], tree: PrefixTree) -> Tensor:
    """log p(continuation | prompt), (B, K), float32 on the CPU, in nats, from one forward pass.

    Args:
        network: Its attention takes four-dimensional masks; not every implementation does.
        prompts: B prompts, each with at least one token.
        tree: The continuations.
    """
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    inner = tree.tokens[: tree.inner].tolist()
    tokens = pad_right([[*prompt, *inner] for prompt in prompts])
    states = network.states(
        tokens.to(network.device),
        attention_mask=_attention_mask(lengths, tokens.shape[1], tree, network.model.dtype).to(network.device),
        position_ids=_positions(lengths, tokens.shape[1], tree).to(network.device),
    )
    predicting = lengths[:, None] - 1 + torch.arange(1 + tree.inner)  # the end of the prompt, then the inner nodes
    rows = torch.arange(len(prompts))[:, None]
    nodes = _node_log_probs(network, states[rows, predicting], tree)
    return torch.stack([nodes[:, list(path)].sum(1) for path in tree.paths], 1)


def _attention_mask(lengths: Tensor, width: int, tree: PrefixTree, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores, (B, 1, T, T): 0 where a position is seen, otherwise the lowest number."""
    seen = torch.ones(width, width, dtype=torch.bool).tril().repeat(len(lengths), 1, 1)
    for i, length in enumerate(lengths.tolist()):
        block = slice(length, length + tree.inner)
        seen[i, block, block] = tree.visible[: tree.inner, : tree.inner]
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def _positions(lengths: Tensor, width: int, tree: PrefixTree) -> Tensor:
    """Position ids (B, T): a node's is that of its token in the continuation. Padding has that of the last token."""
    positions = torch.arange(width).repeat(len(lengths), 1)
    for i, length in enumerate(lengths.tolist()):
        positions[i, length : length + tree.inner] = length + tree.depths[: tree.inner]
        positions[i, length + tree.inner :] = length - 1
    return positions


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
