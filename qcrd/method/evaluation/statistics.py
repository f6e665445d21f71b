"""Estimates with confidence intervals, and tests that compare students on the same items.

The closed forms are written out, and tested against scipy and statsmodels, as in `student_t`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from qcrd.method.evaluation.student_t import t_critical_value
from qcrd.method.evaluation.verdicts import seeds_needed_by_a_pair
from qcrd.records.reports.accuracy import Accuracy, Comparison

BOOTSTRAP_DRAWS = 10_000
"""Bootstrap samples: the bounds' own error is then about a hundredth of the interval."""

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def wilson_interval(right: int, n: int) -> Accuracy:
    """Accuracy `right / n` with its 95 % Wilson score interval (Wilson 1927)."""
    share, z = right / n, NormalDist().inv_cdf(0.975)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if right == 0 else middle - half
    high = 1.0 if right == n else middle + half
    return Accuracy(accuracy=share, low=low, high=high, n=n)


@dataclass(frozen=True)
class Interval:
    """A mean or a difference with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


def t_interval(values: Sequence[float]) -> Interval:
    """Mean of one number per seed with its t interval. One seed has no interval: it is infinite."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Interval(mean, -np.inf, np.inf)
    half = float(np.std(values, ddof=1)) / math.sqrt(n) * t_critical_value(n - 1)
    return Interval(mean, mean - half, mean + half)


def mcnemar_test(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact two-sided p of McNemar's test: are the items on which two methods differ split evenly?

    `first[i]` and `second[i]` say whether each was right on test item i.
    """
    counts = _count_discordant(first, second)
    n, fewer = sum(counts), min(counts)
    tail, term = 0, 1
    for k in range(fewer + 1):  # each binomial coefficient from the one before it
        tail, term = tail + term, term * (n - k) // (k + 1)
    # Integer division is exact at any size; both tails together are at most the total.
    return min(1.0, 2 * tail / int(2**n))


def paired_bootstrap(
    first: Sequence[bool], second: Sequence[bool], *, seed: int, draws: int = BOOTSTRAP_DRAWS
) -> Interval:
    """Accuracy of `second` minus `first` with its percentile interval over resampled test items.

    An item's difference is -1, 0 or 1, so a resample of all items is a draw of three counts.
    """
    n, (only_first, only_second) = len(first), _count_discordant(first, second)
    shares = np.array([only_first, only_second, n - only_first - only_second]) / n
    counts = np.random.default_rng(seed).multinomial(n, shares, size=draws)
    low, high = np.quantile((counts[:, 1] - counts[:, 0]) / n, [0.025, 0.975])
    return Interval((only_second - only_first) / n, float(low), float(high))


@dataclass(frozen=True)
class BootstrapDifference:
    """The difference of two accuracies, with its 95 % interval and two-sided p."""

    value: float
    low: float
    high: float
    p: float


def crossed_bootstrap(
    gains: np.ndarray, *, seed: int, draws: int = BOOTSTRAP_DRAWS
) -> BootstrapDifference:
    """Bootstrap of a mean difference in which seeds and questions are both drawn anew.

    `gains` [seeds, questions] is 1 where only the method was right, -1 where only the baseline was,
    0 where they agree. A sample is a draw of seeds and, apart from it, one of questions, each with
    replacement (the pigeonhole bootstrap of Owen 2007); with one seed it is that of the questions.
    For a draw of seeds a question's sum is a whole number, so the draw of questions is one of their
    counts. `p` is twice the smaller share of samples on either side of 0, each counted with one
    more, so that it is never 0 (Davison and Hinkley 1997, eq. 4.11).
    """
    seeds, n = gains.shape
    rng = np.random.default_rng(seed)
    # Questions with the same gains under every seed are alike; draws of the same seeds as well.
    kinds, kind_counts = np.unique(gains, axis=1, return_counts=True)
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    # In floating point, which BLAS multiplies; the sums are small whole numbers, so exact.
    sums, largest = kinds.astype(float), seeds * int(np.abs(gains).max())
    resampled = []
    for times, count in zip(*np.unique(drawn, axis=0, return_counts=True), strict=True):
        places = (times @ sums).astype(int) + largest
        shares = np.bincount(places, weights=kind_counts, minlength=2 * largest + 1) / n
        resampled.append(rng.multinomial(n, shares, size=count) @ np.arange(-largest, largest + 1))
    found = np.concatenate(resampled)
    low, high = np.quantile(found, [0.025, 0.975]) / (n * seeds)
    side = min(int((found <= 0).sum()), int((found >= 0).sum()))
    p = min(1.0, 2 * (side + 1) / (draws + 1))
    return BootstrapDifference(float(gains.sum()) / (n * seeds), float(low), float(high), p)


def compare_methods(
    method: tuple[str, Sequence[bool]],
    baseline: tuple[str, Sequence[bool]],
    *,
    seed: int,
    draws: int = BOOTSTRAP_DRAWS,
) -> Comparison:
    """Two named students on the same test items, in the same order; at least one item."""
    (method_name, method_correct), (baseline_name, baseline_correct) = method, baseline
    only_method, only_baseline = _count_discordant(method_correct, baseline_correct)
    gain = paired_bootstrap(baseline_correct, method_correct, seed=seed, draws=draws)
    return Comparison(
        method=method_name,
        baseline=baseline_name,
        n=len(method_correct),
        only_method=only_method,
        only_baseline=only_baseline,
        difference=gain.value,
        low=gain.low,
        high=gain.high,
        p=mcnemar_test(method_correct, baseline_correct),
        seed=seed,
        draws=draws,
        seeds_needed=seeds_needed_by_a_pair(only_method, only_baseline, len(method_correct)),
    )


def _count_discordant(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int]:
    """Items that only the first, and only the second, got right."""
    pairs = list(zip(first, second, strict=True))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def flag_leaked(training: Sequence[str], test: Sequence[str]) -> list[bool]:
    """Whether each test story also occurs in training once numbers, case and spacing are set aside.

    The story is the text without its last line, which asks about it; a text of one line is a story
    by itself. A student can answer such an item from memory; 105 of SVAMP's 200 are such.
    """
    training_stories = {_normalize_story(text) for text in training}
    return [_normalize_story(text) in training_stories for text in test]


def flag_repeated(training: Sequence[str], test: Sequence[str]) -> list[bool]:
    """Whether each test text occurs in training as it is, case and spacing aside."""
    training_texts = {_normalize_text(text) for text in training}
    return [_normalize_text(text) in training_texts for text in test]


def _normalize_text(text: str) -> str:
    return " ".join(text.casefold().split())


def _normalize_story(text: str) -> str:
    lines = text.strip().splitlines()
    story = " ".join(lines[:-1] or lines)
    return NUMBER.sub("#", _normalize_text(story))
