"""The choice of the next token, in TGI's order of processors (server/utils/tokens.py 81-98)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from services.teacher.engines.base import Sampling


def choose(
    scores: Tensor,
    sampling: Sampling,
    *,
    prompt: Sequence[int],
    generated: Sequence[int],
    generator: torch.Generator,
) -> tuple[int, Tensor]:
    """The next id and the log-probabilities [V] it was chosen from, given raw `scores` [V]."""
    scores = penalise(scores.float(), sampling, prompt, generated)
    if not sampling.do_sample:
        logprobs = scores.log_softmax(-1)
        return int(logprobs.argmax()), logprobs
    scores = scores / sampling.temperature
    if sampling.top_k:
        scores = keep_top_k(scores, sampling.top_k)
    if sampling.top_p:
        scores = keep_top_p(scores, sampling.top_p)
    if sampling.typical_p:
        scores = keep_typical(scores, sampling.typical_p)
    logprobs = scores.log_softmax(-1)
    return int(torch.multinomial(logprobs.exp(), 1, generator=generator)), logprobs


def penalise(
    scores: Tensor, sampling: Sampling, prompt: Sequence[int], generated: Sequence[int]
) -> Tensor:
    """Repetition penalty over prompt and answer (CTRL, Keskar et al. 2019), frequency penalty
    over the answer (subtracted once per occurrence).
    """
    if sampling.repetition_penalty:
        seen = torch.tensor(sorted({*prompt, *generated}), dtype=torch.long)
        old = scores[seen]
        penalty = sampling.repetition_penalty
        scores = scores.scatter(0, seen, torch.where(old < 0, old * penalty, old / penalty))
    if sampling.frequency_penalty and generated:
        counts = torch.bincount(torch.tensor(generated), minlength=len(scores))
        scores = scores - sampling.frequency_penalty * counts
    return scores


def keep_top_k(scores: Tensor, k: int) -> Tensor:
    least = scores.topk(min(k, len(scores))).values[-1]
    return scores.masked_fill(scores < least, -math.inf)


def keep_top_p(scores: Tensor, p: float) -> Tensor:
    """The smallest set of most likely tokens that holds at least `p` (Holtzman et al. 2020)."""
    ordered, order = scores.sort(descending=True)
    before = ordered.softmax(-1).cumsum(-1).roll(1)
    before[0] = 0.0
    return scores.masked_fill(_scattered(before >= p, order), -math.inf)


def keep_typical(scores: Tensor, p: float) -> Tensor:
    """The tokens whose surprise is nearest the entropy, up to mass `p` (Meister et al. 2023)."""
    logprobs = scores.log_softmax(-1)
    probs = logprobs.exp()
    entropy = -(probs * logprobs.clamp(min=-1e4)).sum()
    order = (-logprobs - entropy).abs().argsort()
    before = probs[order].cumsum(-1).roll(1)
    before[0] = 0.0
    return scores.masked_fill(_scattered(before >= p, order), -math.inf)


def _scattered(mask: Tensor, order: Tensor) -> Tensor:
    return torch.zeros_like(mask).scatter(0, order, mask)
