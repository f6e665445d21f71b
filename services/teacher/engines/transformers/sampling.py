"""The choice of the next token, in TGI's order of processors (server/utils/tokens.py 81-98)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from services.teacher.engines.base import SamplingParams


def choose(
    scores: Tensor,
    sampling: SamplingParams,
    *,
    prompt: Sequence[int],
    generated: Sequence[int],
    generator: torch.Generator,
    allowed: Tensor | None = None,
) -> tuple[int, Tensor]:
    """The next id and the log-probabilities [V] it was chosen from, given raw `scores` [V].

    `allowed`: mask [V] of the tokens a grammar takes next.
    """
    scores = penalise(scores.float(), sampling, prompt, generated)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
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
    return draw(logprobs, generator), logprobs


def draw(logprobs: Tensor, generator: torch.Generator) -> int:
    """One id by one uniform number, where `torch.multinomial` would draw one per id."""
    mass = logprobs.double().exp().cumsum(-1)
    place = torch.rand(1, generator=generator, dtype=torch.float64) * mass[-1]
    return int(torch.searchsorted(mass, place, right=True).clamp(max=len(mass) - 1))


def penalise(
    scores: Tensor, sampling: SamplingParams, prompt: Sequence[int], generated: Sequence[int]
) -> Tensor:
    """Repetition penalty over prompt and answer (CTRL, Keskar et al. 2019); over the answer the
    frequency penalty, subtracted once per occurrence, and the presence penalty, once per token.
    """
    if sampling.repetition_penalty:
        seen = torch.tensor(sorted({*prompt, *generated}), dtype=torch.long)
        old = scores[seen]
        penalty = sampling.repetition_penalty
        scores = scores.scatter(0, seen, torch.where(old < 0, old * penalty, old / penalty))
    if generated and (sampling.frequency_penalty or sampling.presence_penalty):
        counts = torch.bincount(torch.tensor(generated), minlength=len(scores))
        scores = scores - (sampling.frequency_penalty or 0.0) * counts
        scores = scores - (sampling.presence_penalty or 0.0) * (counts > 0)
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
