"""Student's distribution in closed form, and how many seeds a t test needs.

Written out and tested against scipy: the gateway, which makes a study's table, would need 143 MB
more of image and 75 MB more of memory for it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from qcrd.records.reports.verdicts import MAX_SEEDS_NEEDED, MIN_SEEDS

POWER = 0.8
"""Probability of finding a difference that is there, for which seeds are counted."""
QUADRATURE_STEPS = 400
"""Steps of the integral over the scatter; the error is below 1e-6 (tested against scipy)."""


def central_t_probability(t: float, degrees_of_freedom: int) -> float:
    """P(|T| < t) for a whole number of degrees of freedom (Abramowitz and Stegun, 26.7.3-4)."""
    angle = math.atan(t / math.sqrt(degrees_of_freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees_of_freedom % 2
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, degrees_of_freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    if not odd:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if degrees_of_freedom > 1 else 0.0))


def upper_tail(t: float, degrees_of_freedom: int) -> float:
    """P(T > t); exact to about 1e-15, so that it may be 0 far out."""
    beyond = max(0.0, 1 - central_t_probability(abs(t), degrees_of_freedom)) / 2
    return beyond if t >= 0 else 1 - beyond


@lru_cache(maxsize=4096)
def t_critical_value(degrees_of_freedom: int, level: float = 0.05) -> float:
    """The t with `level` of Student's distribution outside of -t and t, by bisection."""
    low, high = 0.0, 1.0
    while 2 * upper_tail(high, degrees_of_freedom) > level:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        if 2 * upper_tail(middle, degrees_of_freedom) > level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def t_test_power(effect: float, n: int, level: float = 0.05) -> float:
    """Probability that the two-sided t test of `n` values, `MIN_SEEDS` at least, finds their mean
    above 0.

    `effect` is the true mean in units of their sd. T is noncentral with n - 1 degrees of freedom
    and noncentrality effect · √n (Cohen 1988, ch. 2): P(T > t) is that of Z > t·S - effect·√n over
    the distribution of S, the observed sd by the true one (Simpson's rule; S has its mass within
    ten of its standard deviations).
    """
    freedom = n - 1
    critical = t_critical_value(freedom, level)
    width = 10 / math.sqrt(2 * freedom)
    scatter = np.linspace(max(1e-9, 1 - width), 1 + width, QUADRATURE_STEPS + 1)
    log_density = (
        math.log(2)
        + freedom / 2 * math.log(freedom / 2)
        - math.lgamma(freedom / 2)
        + (freedom - 1) * np.log(scatter)
        - freedom * scatter**2 / 2
    )
    normal = NormalDist()
    found = [normal.cdf(effect * math.sqrt(n) - critical * float(s)) for s in scatter]
    weights = np.ones(QUADRATURE_STEPS + 1)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    step = float(scatter[1] - scatter[0]) / 3
    return float((weights * np.exp(log_density) * found).sum() * step)


def count_seeds_needed(difference: float, sd: float, *, level: float = 0.05) -> int:
    """Fewest seeds, `MIN_SEEDS` at least, whose paired t test at `level` finds a true `difference`
    in 80 % of studies, where differences scatter over seeds by `sd` (above 0).

    One more than `MAX_SEEDS_NEEDED` stands for any larger number. The difference is one worth
    finding and not the observed one: power at the observed difference only says its p again
    (Hoenig and Heisey 2001). An `sd` of few seeds is uncertain, and so is this number.
    """
    effect = difference / sd
    low, high = MIN_SEEDS, MAX_SEEDS_NEEDED + 1
    while low < high:
        middle = (low + high) // 2
        if t_test_power(effect, middle, level) >= POWER:
            high = middle
        else:
            low = middle + 1
    return low
