"""The choice of the next tokens, all rows of a batch at once on the device of their logits.

The processors stand in TGI's order (server/utils/tokens.py 81-98). A row draws with one uniform
number, a function of its seed and of how many tokens it has, so that what it says depends on its
own logits and seed and not on the rows beside it.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from services.teacher.engines.base import SamplingParams
from services.teacher.engines.transformers.filters import (
    filter_top_k,
    filter_top_p,
    filter_typical,
)

BIN_SIZE = 128
"""Neighbouring tokens that are first drawn from as one. Vocabularies are padded to multiples of it
(SmolLM2's 49,152, Qwen's 151,936), and others are here."""
CPU_BLOCK_SIZE = 2**20
"""Scores worked on at a time on a CPU, so that they stay in its cache; 64 rows of 151,936 take
three times as long in one piece. An accelerator takes all rows at once."""


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """One row to choose a token for: its settings and its tokens so far. `grammar_mask` [V] marks
    the tokens that its grammar takes next; `top_n`: how many of the likeliest to tell;
    `tells_free`: whether to tell what the model gave the token before anything shaped its choice.
    """

    sampling: SamplingParams
    prompt: Sequence[int] = ()
    generated: Sequence[int] = ()
    grammar_mask: Tensor | None = None
    top_n: int = 0
    tells_free: bool = False


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A chosen token with its log-probability, natural, and the row's likeliest tokens with theirs;
    -inf for what the settings or the grammar rule out. `free_logprob` is the model's own."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    free_logprob: float | None = None


def sample_tokens(logits: Tensor, rows: Sequence[SamplingRow]) -> list[SampledToken]:
    """The next token of each row, given the model's `logits` [N, V]."""
    if logits.device.type != "cpu":
        return _sample_block(logits, rows)
    size = max(1, CPU_BLOCK_SIZE // logits.shape[1])
    return [
        token
        for start in range(0, len(rows), size)
        for token in _sample_block(logits[start : start + size], rows[start : start + size])
    ]


def _sample_block(logits: Tensor, rows: Sequence[SamplingRow]) -> list[SampledToken]:
    scores = _filter(_apply_grammars(_apply_penalties(logits.float(), rows), rows), rows)
    bins = _split_into_bins(scores, -math.inf)
    best, top = _find_best(bins)
    drawn, totals = _draw(bins.sub(top[..., None]).exp_(), [_draw_uniform(row) for row in rows])
    is_drawn = torch.tensor([row.sampling.do_sample for row in rows]).to(scores.device)
    chosen = torch.where(is_drawn, drawn, best)
    log_totals = top + totals.log()[:, None]
    logprobs = scores.gather(-1, chosen[:, None]) - log_totals
    # One copy to the host: ids are whole numbers that a float64 holds.
    ids, values = torch.stack([chosen.double(), logprobs[:, 0]]).tolist()
    likeliest = _find_likeliest(scores, log_totals, rows)
    free = _find_free_logprobs(logits, chosen, rows)
    return [
        SampledToken(int(i), value, likeliest.get(number, ()), free.get(number))
        for number, (i, value) in enumerate(zip(ids, values, strict=True))
    ]


# --- the draw -------------------------------------------------------------------------------------


def draw_tokens(weights: Tensor, uniforms: Sequence[float]) -> tuple[Tensor, Tensor]:
    """One id per row [N] in proportion to `weights` [N, V], and the rows' sums [N] in float64.

    The inverse of the cumulative distribution at a uniform number per row.
    """
    return _draw(_split_into_bins(weights, 0.0), uniforms)


def _split_into_bins(values: Tensor, padding: float) -> Tensor:
    """[N, V] as [N, bins, BIN_SIZE], with `padding` behind the last."""
    if missing := -values.shape[1] % BIN_SIZE:
        values = F.pad(values, (0, missing), value=padding)
    return values.view(len(values), -1, BIN_SIZE)


def _draw(bins: Tensor, uniforms: Sequence[float]) -> tuple[Tensor, Tensor]:
    """A draw first among `bins` of weights and then inside one: a running sum over the whole
    vocabulary costs more than all else."""
    masses = bins.sum(-1).double()
    totals = masses.sum(-1)
    targets = torch.tensor(uniforms, dtype=torch.float64).to(bins.device) * totals
    place, rest = _find_bin(masses, targets)
    inside = _select(bins, place).double()
    return place * BIN_SIZE + _find_bin(inside, rest)[0], totals


def _find_best(bins: Tensor) -> tuple[Tensor, Tensor]:
    """The id of the highest of each row's scores [N], and that score [N, 1]. Over the whole row a
    CPU looks for it ten times as long."""
    top, place = bins.amax(-1).max(-1, keepdim=True)
    return place[:, 0] * BIN_SIZE + _select(bins, place[:, 0]).argmax(-1), top


def _select(bins: Tensor, place: Tensor) -> Tensor:
    """The bin [N, BIN_SIZE] of each row at its `place` [N]."""
    return bins[torch.arange(len(bins), device=bins.device), place]


def _find_bin(masses: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The bin of `masses` [N, K] that `targets` [N] fall into, never an empty one, and what is left
    of them there."""
    ends = masses.cumsum(-1)
    found = torch.searchsorted(ends, targets[:, None], right=True)
    # Rounding may leave a target at or behind the end of the last bin that has anything.
    numbers = torch.arange(masses.shape[1], device=masses.device)
    found = torch.minimum(found, (numbers * (masses > 0)).amax(-1, keepdim=True))
    rest = targets - (ends - masses).gather(-1, found)[:, 0]
    return found[:, 0], rest


def _draw_uniform(row: SamplingRow) -> float:
    """A number in [0, 1) with 53 random bits, of the row's seed and the place of its next token."""
    if not row.sampling.do_sample:
        return 0.0
    # Seeds go up to 2^64 - 1, as TGI's do.
    key = (row.sampling.seed or 0).to_bytes(8, "little") + len(row.generated).to_bytes(8, "little")
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def _find_likeliest(
    scores: Tensor, log_totals: Tensor, rows: Sequence[SamplingRow]
) -> dict[int, tuple[tuple[int, float], ...]]:
    """The `top_n` likeliest tokens of the rows that ask for them, by row."""
    asking = [number for number, row in enumerate(rows) if row.top_n]
    if not asking:
        return {}
    index = torch.tensor(asking).to(scores.device)
    most = min(max(rows[number].top_n for number in asking), scores.shape[1])
    best = scores[index].topk(most)
    ids, logprobs = best.indices.tolist(), (best.values - log_totals[index]).tolist()
    return {
        number: tuple(zip(ids[place], logprobs[place], strict=True))[: rows[number].top_n]
        for place, number in enumerate(asking)
    }


def _find_free_logprobs(
    logits: Tensor, chosen: Tensor, rows: Sequence[SamplingRow]
) -> dict[int, float]:
    """Of the rows that ask for it, by row."""
    asking = [number for number, row in enumerate(rows) if row.tells_free]
    if not asking:
        return {}
    index = torch.tensor(asking).to(logits.device)
    own = logits[index].float()
    values = own.gather(-1, chosen[index][:, None])[:, 0] - own.logsumexp(-1)
    return dict(zip(asking, values.tolist(), strict=True))


# --- penalties and grammars -----------------------------------------------------------------------


def _apply_penalties(scores: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """Repetition penalty over prompt and output (CTRL, Keskar et al. 2019); over the output the
    frequency penalty, subtracted once per occurrence, and the presence penalty, once per token.
    """
    repeated = [
        (number, token, row.sampling.repetition_penalty)
        for number, row in enumerate(rows)
        if row.sampling.repetition_penalty
        for token in {*row.prompt, *row.generated}
    ]
    if repeated:
        places, penalties = _locate(repeated, scores)
        seen = scores[places]
        penalized = torch.where(seen < 0, seen * penalties, seen / penalties)
        scores = scores.index_put(places, penalized)
    written = [
        (
            number,
            token,
            (row.sampling.frequency_penalty or 0.0) * count
            + (row.sampling.presence_penalty or 0.0),
        )
        for number, row in enumerate(rows)
        if row.sampling.frequency_penalty or row.sampling.presence_penalty
        for token, count in Counter(row.generated).items()
    ]
    if written:
        places, penalties = _locate(written, scores)
        scores = scores.index_put(places, -penalties, accumulate=True)
    return scores


def _locate(
    entries: Sequence[tuple[int, int, float]], scores: Tensor
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The places of (row, token, value) in `scores`, and the values."""
    numbers, tokens, values = zip(*entries, strict=True)
    index = torch.tensor([numbers, tokens]).to(scores.device)
    return (index[0], index[1]), torch.tensor(values, dtype=scores.dtype).to(scores.device)


def _apply_grammars(scores: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    masks = {n: row.grammar_mask for n, row in enumerate(rows) if row.grammar_mask is not None}
    if not masks:
        return scores
    allowed = torch.stack([*masks.values()]).to(scores.device)
    index = torch.tensor([*masks]).to(scores.device)
    return scores.index_copy(0, index, scores[index].masked_fill(~allowed, -math.inf))


# --- filters --------------------------------------------------------------------------------------


def _filter(scores: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """Temperature and filters of the rows that draw, each with its own settings."""
    settings = [row.sampling if row.sampling.do_sample else SamplingParams() for row in rows]
    temperatures = [setting.temperature for setting in settings]
    if any(temperature != 1.0 for temperature in temperatures):
        scores = scores / torch.tensor(temperatures).to(scores.device)[:, None]
    scores = _filter_rows(scores, [setting.top_k for setting in settings], filter_top_k)
    scores = _filter_rows(scores, [setting.top_p for setting in settings], filter_top_p)
    return _filter_rows(scores, [setting.typical_p for setting in settings], filter_typical)


def _filter_rows(
    scores: Tensor,
    values: Sequence[float | None],
    keep: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """`scores` with the rows that have a value of this filter filtered by it."""
    filtered = [number for number, value in enumerate(values) if value]
    if not filtered:
        return scores
    bounds = torch.tensor([values[number] for number in filtered]).to(scores.device)
    if len(filtered) == len(values):
        return keep(scores, bounds)
    index = torch.tensor(filtered).to(scores.device)
    return scores.index_copy(0, index, keep(scores[index], bounds))
