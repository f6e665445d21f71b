"""The local engine's choice of tokens: filters, penalties, and what a row's draw depends on."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from services.teacher.engines.base import SamplingParams
from services.teacher.engines.transformers.filters import (
    MASS_CANDIDATES,
    filter_top_k,
    filter_top_p,
    filter_typical,
)
from services.teacher.engines.transformers.sampling import SamplingRow, draw_tokens, sample_tokens

SCORES = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
DRAWING = SamplingParams(do_sample=True, seed=7)


def kept(scores: Tensor) -> list[list[int]]:
    return [row.isfinite().nonzero().flatten().tolist() for row in scores]


def test_filters_on_a_distribution_worked_by_hand() -> None:
    """p = .5 .3 .15 .05: top_k 2 and top_p .7 keep the first two (.5 < .7 <= .8). Entropy is
    .347 + .361 + .285 + .150 = 1.142 nats; surprises .693 1.204 1.897 2.996 lie .449 .062 .755
    1.854 from it, so typical_p .6 keeps the second, then the first.
    """
    two = SCORES.expand(2, -1)
    assert kept(filter_top_k(two, torch.tensor([2, 9]))) == [[0, 1], [0, 1, 2, 3]]
    assert kept(filter_top_p(two, torch.tensor([0.7, 0.01]))) == [[0, 1], [0]]
    assert kept(filter_typical(two, torch.tensor([0.6, 0.2]))) == [[0, 1], [1]]


def test_top_p_ends_with_the_token_that_reaches_it() -> None:
    """Masses 1/2, 1/4, 1/8, 1/8 are exact in binary: .5 is reached by the first token alone, .75
    by two, anything above by a third."""
    scores = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8]).log().expand(4, -1)
    bounds = torch.tensor([0.5, 0.7499, 0.7501, 0.9])
    assert [len(row) for row in kept(filter_top_p(scores, bounds))] == [1, 2, 3, 4]


@pytest.mark.parametrize("candidates", MASS_CANDIDATES["cpu"])
def test_top_p_looks_behind_the_first_candidates_where_they_are_not_enough(candidates: int) -> None:
    """Four times as many equal tokens as candidates: half of the mass is half of them."""
    flat = torch.zeros(2, 4 * candidates)
    sizes = [len(row) for row in kept(filter_top_p(flat, torch.tensor([0.5, 0.125])))]
    assert sizes == [2 * candidates, candidates // 2]


def test_what_a_row_keeps_is_no_matter_of_the_rows_beside_it() -> None:
    """Scores of few digits, so that many are equal, alone and beside a row that needs them all."""
    rows = (torch.randn(8, 4000, generator=torch.Generator().manual_seed(1)) * 6).bfloat16().float()
    flat = torch.zeros(1, 4000)
    for row in rows.split(1):
        alone = filter_top_p(row, torch.tensor([0.9]))
        beside = filter_top_p(torch.cat([flat, row]), torch.tensor([0.99, 0.9]))
        assert torch.equal(alone[0], beside[1])


def test_top_k_keeps_what_equals_its_last() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0]])
    assert kept(filter_top_k(scores, torch.tensor([2]))) == [[1, 2, 3]]


def test_penalties_worked_by_hand() -> None:
    """Token 0 was in the prompt, token 1 twice in the answer. Repetition 2: 2/2 = 1, -1*2 = -2;
    frequency .5: -2 - 2*.5 = -3; presence .25 beside it: -3.25. The best is then token 2.
    """
    logits = torch.tensor([2.0, -1.0, 1.5]).expand(3, -1)
    penalized = SamplingParams(repetition_penalty=2.0, frequency_penalty=0.5)
    rows = [
        SamplingRow(SamplingParams(), [0], [1, 1], top_n=3),
        SamplingRow(penalized, [0], [1, 1], top_n=3),
        SamplingRow(replace(penalized, presence_penalty=0.25), [0], [1, 1], top_n=3),
    ]
    expected = [[2.0, -1.0, 1.5], [1.0, -3.0, 1.5], [1.0, -3.25, 1.5]]
    for token, scores in zip(sample_tokens(logits, rows), expected, strict=True):
        logprobs = torch.tensor(scores).log_softmax(-1)
        assert token.id == int(logprobs.argmax())
        assert token.logprob == pytest.approx(float(logprobs.max()), abs=1e-6)
        assert dict(token.top) == pytest.approx(dict(enumerate(logprobs.tolist())), abs=1e-6)


def test_what_a_grammar_or_a_filter_rules_out_is_never_chosen() -> None:
    mask = torch.tensor([False, False, True, True])
    greedy = SamplingRow(SamplingParams(), grammar_mask=mask, top_n=4)
    one = SamplingRow(replace(DRAWING, top_k=1), grammar_mask=mask)
    free = SamplingRow(SamplingParams())
    first, second, third = sample_tokens(SCORES.expand(3, -1), [greedy, one, free])
    assert (first.id, second.id, third.id) == (2, 2, 0)
    assert first.logprob == pytest.approx(math.log(0.75), abs=1e-6)
    assert [value for _, value in first.top[2:]] == [-math.inf] * 2
    drawn = [
        sample_tokens(SCORES[None], [SamplingRow(DRAWING, generated=[0] * n, grammar_mask=mask)])
        for n in range(200)
    ]
    assert {token.id for [token] in drawn} == {2, 3}


MIXED = (
    DRAWING,
    SamplingParams(),
    SamplingParams(do_sample=True, seed=2**64 - 1, temperature=0.7, top_k=50, top_p=0.95),
    SamplingParams(do_sample=True, seed=3, temperature=1.5, typical_p=0.9),
    SamplingParams(do_sample=True, seed=4, top_p=0.5, repetition_penalty=1.2),
    SamplingParams(do_sample=True, seed=5, temperature=0.3, frequency_penalty=0.4),
)


@pytest.mark.parametrize("vocabulary", [300, 4096, 300_000])
def test_a_row_says_in_a_batch_what_it_says_alone(vocabulary: int) -> None:
    """Also where a batch is worked on in several blocks, and in another order."""
    torch.manual_seed(0)
    steps = 40 if vocabulary < 10_000 else 3
    logits = 3 * torch.randn(steps, len(MIXED), vocabulary)
    alone: list[list[int]] = [[] for _ in MIXED]
    together: list[list[int]] = [[] for _ in MIXED]
    backwards = range(len(MIXED) - 1, -1, -1)
    for scores in logits:
        for number, sampling in enumerate(MIXED):
            row = SamplingRow(sampling, [1, 2], alone[number])
            alone[number].append(sample_tokens(scores[number : number + 1], [row])[0].id)
        rows = [SamplingRow(MIXED[number], [1, 2], together[number]) for number in backwards]
        chosen = sample_tokens(scores.flip(0), rows)
        for number, token in zip(backwards, chosen, strict=True):
            together[number].append(token.id)
    assert alone == together


def test_draws_are_distributed_as_the_softmax_says() -> None:
    """Chi-square of 20,000 draws over twelve tokens, eleven degrees of freedom: 31.3 is exceeded
    with probability .001, and the seeds are fixed."""
    torch.manual_seed(1)
    logits = torch.randn(12)
    probs = (logits / 0.8).softmax(-1).tolist()
    rows = [
        SamplingRow(SamplingParams(do_sample=True, seed=seed, temperature=0.8), (), [0] * place)
        for seed in range(100)
        for place in range(200)
    ]
    counts = Counter(token.id for token in sample_tokens(logits.expand(len(rows), -1), rows))
    expected = [probability * len(rows) for probability in probs]
    assert sum((counts[i] - e) ** 2 / e for i, e in enumerate(expected)) < 31.3


def test_neighbouring_seeds_and_places_draw_apart() -> None:
    """Ten thousand pairs of a uniform over 64 tokens: equal with probability 1/64, so 156 ± 12."""
    rows = [
        SamplingRow(SamplingParams(do_sample=True, seed=seed), (), [0] * place)
        for seed in range(101)
        for place in range(101)
    ]
    ids = [token.id for token in sample_tokens(torch.zeros(len(rows), 64), rows)]
    grid = torch.tensor(ids).view(101, 101)
    for equal in (grid[1:, :100] == grid[:-1, :100], grid[:100, 1:] == grid[:100, :-1]):
        assert abs(int(equal.sum()) - 156) < 4 * 12


def test_the_ends_of_a_draw_are_tokens_that_have_mass() -> None:
    """A uniform number of 0 and one just below 1, where the first and last tokens have none."""
    weights = torch.zeros(2, 1000)
    weights[:, 300:700] = 0.1
    ids, totals = draw_tokens(weights, [0.0, 1 - 2**-53])
    assert ids.tolist() == [300, 699]
    assert totals.tolist() == pytest.approx([40.0, 40.0])
