"""Numbers that carry their uncertainty."""

from __future__ import annotations

from scipy.stats import binomtest

from qcrd.records import Accuracy


def wilson(right: int, n: int) -> Accuracy:
    """Accuracy `right / n` with its 95 % Wilson score interval (Wilson 1927)."""
    interval = binomtest(right, n).proportion_ci(0.95, method="wilson")
    return Accuracy(accuracy=right / n, low=float(interval.low), high=float(interval.high), n=n)
