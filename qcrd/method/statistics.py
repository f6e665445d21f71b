"""Numbers that carry their uncertainty, and tests that compare two methods on the same items."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from qcrd.records import Accuracy

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def wilson(right: int, n: int) -> Accuracy:
    """Accuracy `right / n` with its 95 % Wilson score interval (Wilson 1927)."""
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
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, -np.inf, np.inf)
    half = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
    return Interval(mean, mean - half, mean + half)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact two-sided p of McNemar's test: are the items on which two methods differ split evenly?

    `first[i]` and `second[i]` say whether each was right on test item i.
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    differing = only_first + only_second
    return float(stats.binomtest(only_first, differing).pvalue) if differing else 1.0


def paired_bootstrap(
    first: Sequence[bool], second: Sequence[bool], *, seed: int, draws: int = 10_000
) -> Interval:
    """Accuracy of `second` minus `first` with its percentile interval over resampled test items."""
    difference = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    picks = np.random.default_rng(seed).integers(0, len(difference), (draws, len(difference)))
    low, high = np.quantile(difference[picks].mean(1), [0.025, 0.975])
    return Interval(float(difference.mean()), float(low), float(high))


def leaked(training: Sequence[str], test: Sequence[str]) -> list[bool]:
    """Whether each test story also occurs in training once numbers, case and spacing are set aside.

    The story is the text without its last line, which asks about it; a text of one line is a story
    by itself. A student can answer such an item by remembering; 105 of SVAMP's 200 are such.
    """
    known = {_story(text) for text in training}
    return [_story(text) in known for text in test]


def _story(text: str) -> str:
    lines = text.strip().splitlines()
    story = " ".join(lines[:-1] or lines)
    return " ".join(NUMBER.sub("#", story.casefold()).split())
