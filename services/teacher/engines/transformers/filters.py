"""What of a distribution may be drawn: the likeliest tokens by number or mass, or the most typical.
What a row keeps is a matter of that row alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MASS_CANDIDATES = {"cpu": (64, 1024), "cuda": (1024,)}
"""Tokens among which the mass of a filter is looked for, by kind of device, before all are sorted,
which takes a hundred times as long as all else on a CPU; the more of them the longer, there."""


def filter_top_k(scores: Tensor, k: Tensor) -> Tensor:
    """Of each row of `scores` [N, V] the `k` [N] highest, and what equals the last of them."""
    k = k.clamp(max=scores.shape[1])
    best = scores.topk(int(k.max())).values
    return scores.masked_fill(scores < best.gather(-1, k[:, None] - 1), -math.inf)


def filter_top_p(scores: Tensor, p: Tensor) -> Tensor:
    """The smallest set of most likely tokens with at least mass `p` [N] (Holtzman et al. 2020)."""
    return _keep_mass(scores, scores, p)


def filter_typical(scores: Tensor, p: Tensor) -> Tensor:
    """The tokens whose surprise is nearest the entropy, up to mass `p` [N] (Meister et al.,
    2023)."""
    logprobs = scores.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(-1, keepdim=True)
    return _keep_mass(scores, -(-logprobs - entropy).abs(), p)


def _keep_mass(scores: Tensor, ranks: Tensor, p: Tensor) -> Tensor:
    """`scores` [N, V] of the tokens first by `ranks` [N, V], highest first, that just have mass `p`
    [N]; a device waits for the host once."""
    probs = scores.softmax(-1)
    # New rows with what is kept in them: over the whole vocabulary a mask takes much longer.
    kept = torch.full_like(scores, -math.inf)
    left: Tensor | None = None  # all
    for count in (*MASS_CANDIDATES.get(scores.device.type, (1024,)), scores.shape[1]):
        parts = (scores, ranks, probs, p)
        own_scores, own_ranks, own_probs, own_p = (x if left is None else x[left] for x in parts)
        order = _rank_first(own_ranks, count)
        masses = own_probs.gather(-1, order)
        mass_before = masses.cumsum(-1).roll(1, -1)
        mass_before[:, 0] = 0.0
        is_over = mass_before >= own_p[:, None]
        found = own_scores.gather(-1, order).masked_fill(is_over, -math.inf)
        if left is None:
            kept.scatter_(-1, order, found)
        else:
            kept[left] = torch.full_like(own_scores, -math.inf).scatter_(-1, order, found)
        # Row by row: what one keeps is no matter of those beside it.
        short = masses.sum(-1) < own_p
        if count >= scores.shape[1] or not bool(short.any()):
            break
        left = short.nonzero()[:, 0] if left is None else left[short]
    return kept


def _rank_first(ranks: Tensor, count: int) -> Tensor:
    """The ids of each row's `count` highest `ranks`, or of all, in order."""
    if count >= ranks.shape[1]:
        return ranks.argsort(descending=True, stable=True)
    return ranks.topk(count).indices
