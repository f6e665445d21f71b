"""Numbers that carry their uncertainty, and tests that compare two methods on the same items.

`scipy.stats` takes 75 MB, as much as the rest of the gateway: only who computes with it pays them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcrd.records import Accuracy, Comparison

DRAWS = 10_000
"""Bootstrap samples: the bounds' own error is then about a hundredth of the interval."""

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def wilson(right: int, n: int) -> Accuracy:
    """Accuracy `right / n` with its 95 % Wilson score interval (Wilson 1927)."""
    from scipy import stats

    interval = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    return Accuracy(accuracy=right / n, low=float(interval.low), high=float(interval.high), n=n)


@dataclass(frozen=True)
class Interval:
    """A mean or a difference with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean of one number per seed with its t interval. One seed has no interval: it is infinite."""
    from scipy import stats

    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, -np.inf, np.inf)
    half = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
    return Interval(mean, mean - half, mean + half)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact two-sided p of McNemar's test: are the items on which two methods differ split evenly?

    `first[i]` and `second[i]` say whether each was right on test item i.
    """
    from scipy import stats

    only_first, only_second = _differing(first, second)
    differing = only_first + only_second
    return float(stats.binomtest(only_first, differing).pvalue) if differing else 1.0


def paired_bootstrap(
    first: Sequence[bool], second: Sequence[bool], *, seed: int, draws: int = DRAWS
) -> Interval:
    """Accuracy of `second` minus `first` with its percentile interval over resampled test items.

    An item's difference is -1, 0 or 1, so a resample of all items is a draw of three counts.
    """
    n, (only_first, only_second) = len(first), _differing(first, second)
    shares = np.array([only_first, only_second, n - only_first - only_second]) / n
    counts = np.random.default_rng(seed).multinomial(n, shares, size=draws)
    low, high = np.quantile((counts[:, 1] - counts[:, 0]) / n, [0.025, 0.975])
    return Interval((only_second - only_first) / n, float(low), float(high))


def compare(
    method: tuple[str, Sequence[bool]],
    baseline: tuple[str, Sequence[bool]],
    *,
    seed: int,
    draws: int = DRAWS,
) -> Comparison:
    """Two named students on the same test items, in the same order; at least one item."""
    (name, ours), (other, theirs) = method, baseline
    only_ours, only_theirs = _differing(ours, theirs)
    gain = paired_bootstrap(theirs, ours, seed=seed, draws=draws)
    return Comparison(
        method=name,
        baseline=other,
        n=len(ours),
        only_method=only_ours,
        only_baseline=only_theirs,
        difference=gain.value,
        low=gain.low,
        high=gain.high,
        p=mcnemar(ours, theirs),
        seed=seed,
        draws=draws,
    )


def _differing(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int]:
    """Items that only the first, and only the second, got right."""
    pairs = list(zip(first, second, strict=True))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def leaked(training: Sequence[str], test: Sequence[str]) -> list[bool]:
    """Whether each test story also occurs in training once numbers, case and spacing are set aside.

    The story is the text without its last line, which asks about it; a text of one line is a story
    by itself. A student can answer such an item by remembering; 105 of SVAMP's 200 are such.
    """
    known = {_story(text) for text in training}
    return [_story(text) in known for text in test]


def repeated(training: Sequence[str], test: Sequence[str]) -> list[bool]:
    """Whether each test text occurs in training as it is, case and spacing aside."""
    known = {_normal(text) for text in training}
    return [_normal(text) in known for text in test]


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _story(text: str) -> str:
    lines = text.strip().splitlines()
    story = " ".join(lines[:-1] or lines)
    return NUMBER.sub("#", _normal(story))
