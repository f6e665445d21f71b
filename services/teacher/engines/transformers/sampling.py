"""The choice of the next token, in TGI's order of processors (server/utils/tokens.py 81-98)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from services.teacher.engines.base import SamplingParams


def sample_token(
    logits: Tensor,
    sampling: SamplingParams,
    *,
    prompt: Sequence[int],
    generated: Sequence[int],
    generator: torch.Generator,
    grammar_mask: Tensor | None = None,
) -> tuple[int, Tensor]:
    """The next id and the log-probabilities [V] it was chosen from, given raw `logits` [V].

    `grammar_mask`: mask [V] of the tokens a grammar takes next.
    """
    logits = apply_penalties(logits.float(), sampling, prompt, generated)
    if grammar_mask is not None:
        logits = logits.masked_fill(~grammar_mask, -math.inf)
    if not sampling.do_sample:
        logprobs = logits.log_softmax(-1)
        return int(logprobs.argmax()), logprobs
    logits = logits / sampling.temperature
    if sampling.top_k:
        logits = filter_top_k(logits, sampling.top_k)
    if sampling.top_p:
        logits = filter_top_p(logits, sampling.top_p)
    if sampling.typical_p:
        logits = filter_typical(logits, sampling.typical_p)
    logprobs = logits.log_softmax(-1)
    return draw_token(logprobs, generator), logprobs


def draw_token(logprobs: Tensor, generator: torch.Generator) -> int:
    """One id by one uniform number, where `torch.multinomial` would draw one per id."""
    cumulative = logprobs.double().exp().cumsum(-1)
    threshold = torch.rand(1, generator=generator, dtype=torch.float64) * cumulative[-1]
    return int(torch.searchsorted(cumulative, threshold, right=True).clamp(max=len(cumulative) - 1))


def apply_penalties(
    logits: Tensor, sampling: SamplingParams, prompt: Sequence[int], generated: Sequence[int]
) -> Tensor:
    """Repetition penalty over prompt and output (CTRL, Keskar et al. 2019); over the output the
    frequency penalty, subtracted once per occurrence, and the presence penalty, once per token.
    """
    if sampling.repetition_penalty:
        seen = torch.tensor(sorted({*prompt, *generated}), dtype=torch.long)
        seen_logits = logits[seen]
        penalty = sampling.repetition_penalty
        logits = logits.scatter(
            0, seen, torch.where(seen_logits < 0, seen_logits * penalty, seen_logits / penalty)
        )
    if generated and (sampling.frequency_penalty or sampling.presence_penalty):
        counts = torch.bincount(torch.tensor(generated), minlength=len(logits))
        logits = logits - (sampling.frequency_penalty or 0.0) * counts
        logits = logits - (sampling.presence_penalty or 0.0) * (counts > 0)
    return logits


def filter_top_k(logits: Tensor, k: int) -> Tensor:
    threshold = logits.topk(min(k, len(logits))).values[-1]
    return logits.masked_fill(logits < threshold, -math.inf)


def filter_top_p(logits: Tensor, p: float) -> Tensor:
    """The smallest set of most likely tokens with at least mass `p` (Holtzman et al. 2020)."""
    sorted_logits, order = logits.sort(descending=True)
    mass_before = sorted_logits.softmax(-1).cumsum(-1).roll(1)
    mass_before[0] = 0.0
    return logits.masked_fill(_scatter_mask(mass_before >= p, order), -math.inf)


def filter_typical(logits: Tensor, p: float) -> Tensor:
    """The tokens whose surprise is nearest the entropy, up to mass `p` (Meister et al. 2023)."""
    logprobs = logits.log_softmax(-1)
    probs = logprobs.exp()
    entropy = -(probs * logprobs.clamp(min=-1e4)).sum()
    order = (-logprobs - entropy).abs().argsort()
    mass_before = probs[order].cumsum(-1).roll(1)
    mass_before[0] = 0.0
    return logits.masked_fill(_scatter_mask(mass_before >= p, order), -math.inf)


def _scatter_mask(mask: Tensor, order: Tensor) -> Tensor:
    return torch.zeros_like(mask).scatter(0, order, mask)
