"""The verdict on methods: from their differences over seeds, and from nothing else.

A method is what is trained anew under every seed, so whether one is better is a question about
seeds. One pair of students, or the same few of them on many questions, answers it not: of two
methods that are equal, tests over questions call one better in up to a third of studies
(docs/results/2026-11-28-verdicts.md). So the paired t test over seeds decides, of differences on
the same questions under the same seed; the crossed bootstrap and McNemar's test are told beside it
and decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcrd.method.evaluation.student_t import count_seeds_needed, t_critical_value, upper_tail
from qcrd.records.reports.verdicts import EQUIVALENCE_MARGIN, MIN_SEEDS, SEED_SCATTER, Verdict

LEVEL = 0.05
"""Most of the studies with a wrong "better" or "worse" in them, and as many with a wrong "no
difference"."""


@dataclass(frozen=True)
class PairedT:
    """The t tests of one difference per seed.

    `low` and `high` bound its 95 % interval. `p` is two-sided, of no difference; `equivalence_p` is
    that of the two one-sided tests (Schuirmann 1987), of a difference of the margin or more.
    """

    low: float
    high: float
    p: float
    equivalence_p: float

    @property
    def mean(self) -> float:
        return (self.low + self.high) / 2


@dataclass(frozen=True)
class Decision:
    """A verdict with the test that led to it, its p values corrected for the study's rows.

    `test` is None where there is none: below two seeds, or without scatter over them.
    `seeds_needed` is None where a verdict is told, and where the scatter is not known.
    """

    verdict: Verdict
    test: PairedT | None = None
    p_holm: float = 1.0
    equivalence_p_holm: float = 1.0
    seeds_needed: int | None = None


def decide(
    rows: Sequence[Sequence[float]],
    *,
    comparisons: int | None = None,
    margin: float = EQUIVALENCE_MARGIN,
    scatter: Sequence[float | None] | None = None,
) -> list[Decision]:
    """The verdict on each row: its differences to the baseline, as shares, one for each seed.

    - "better" or "worse": at least `MIN_SEEDS` seeds, and the paired t test finds a difference at
      5 %.
    - "no difference": as many seeds, the test finds none, and the two one-sided tests by the same t
      find it smaller than `margin` at 5 %. What is surely there but smaller than the margin is
      "better" all the same: its size stands beside the word.
    - "cannot tell": everything else. Differences that are the same under every seed have no scatter
      to judge them by: they are as a rule one run that was made several times.

    Both tests are corrected by Holm (1979), each over the `comparisons` that the study set out to
    make (all rows, if None): a row that has no test yet, or whose runs failed, counts with p = 1,
    so that a verdict does not depend on which of the others came to an end.

    `seeds_needed` is for 80 % power at a true difference of `margin`, at the level of the smallest
    of the comparisons. `scatter` is taken for a row's sd over seeds where its own few seeds show
    none.
    """
    count = max(len(rows), comparisons or 0)
    tests = [paired_t(row, margin) if len(row) >= MIN_SEEDS else None for row in rows]
    p_holm = holm_correction([test.p if test else 1.0 for test in tests], count)
    equivalence = holm_correction([test.equivalence_p if test else 1.0 for test in tests], count)
    assumed = scatter if scatter is not None else [None] * len(rows)
    return [
        _decide_row(row, margin, LEVEL / max(1, count), p, q, sd)
        for row, p, q, sd in zip(rows, p_holm, equivalence, assumed, strict=True)
    ]


def _decide_row(
    row: Sequence[float],
    margin: float,
    level: float,
    p_holm: float,
    equivalence_p_holm: float,
    assumed_sd: float | None,
) -> Decision:
    test = paired_t(row, margin)
    verdict = Verdict.CANNOT_TELL
    if test is not None and p_holm <= LEVEL:
        verdict = Verdict.BETTER if float(np.mean(row)) > 0 else Verdict.WORSE
    elif test is not None and equivalence_p_holm <= LEVEL:
        verdict = Verdict.NO_DIFFERENCE
    if verdict is not Verdict.CANNOT_TELL:
        return Decision(verdict, test, p_holm, equivalence_p_holm)
    sd = assumed_sd if len(row) < MIN_SEEDS else None
    if test is not None:
        sd = float(np.std(row, ddof=1))
    needed = count_seeds_needed(margin, sd, level=level) if sd else None
    return Decision(verdict, test, p_holm, equivalence_p_holm, needed)


def paired_t(differences: Sequence[float], margin: float = EQUIVALENCE_MARGIN) -> PairedT | None:
    """None below two seeds, where a difference is no finite number, and where all are the same."""
    n = len(differences)
    if n < 2 or not all(map(math.isfinite, differences)) or _is_constant(differences):
        return None
    mean, error = float(np.mean(differences)), float(np.std(differences, ddof=1)) / math.sqrt(n)
    half = error * t_critical_value(n - 1)
    return PairedT(
        low=mean - half,
        high=mean + half,
        p=2 * upper_tail(abs(mean) / error, n - 1),
        # The one of the two sides that is nearer to its bound.
        equivalence_p=upper_tail((margin - abs(mean)) / error, n - 1),
    )


def _is_constant(differences: Sequence[float]) -> bool:
    """Up to what shares of the same counts differ by when they are subtracted."""
    return max(differences) - min(differences) < 1e-12


def holm_correction(p_values: Sequence[float], count: int | None = None) -> list[float]:
    """`p_values` corrected for their number, in the same order (Holm 1979).

    The smallest is multiplied by how many there are, the next by one less, and so on; none becomes
    smaller than the one before it, nor larger than 1. `count` is how many there are, if some with
    p = 1 are left out.
    """
    count = len(p_values) if count is None else count
    corrected, running_max = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        running_max = max(running_max, min(1.0, (count - rank) * p_values[index]))
        corrected[index] = running_max
    return corrected


def seeds_needed_by_a_pair(only_method: int, only_baseline: int, n: int) -> int:
    """Seeds for 80 % power at a true difference of the usual margin, told from one pair of
    students, with what `guess_scatter` takes for the sd."""
    return count_seeds_needed(EQUIVALENCE_MARGIN, guess_scatter(only_method, only_baseline, n))


def guess_scatter(only_method: int, only_baseline: int, n: int) -> float:
    """An sd of the difference over seeds, from one seed, in which `n` questions were answered.

    One seed has no scatter, so part of it is assumed: each method's accuracy scatters by
    `SEED_SCATTER`. To it comes what a difference of that many answers, `only_method` and
    `only_baseline` right alone, scatters by the chance of each: the sd of McNemar's difference.
    """
    discordant, difference = only_method + only_baseline, only_method - only_baseline
    by_chance = (discordant - difference**2 / n) / n**2
    return math.sqrt(2 * SEED_SCATTER**2 + max(0.0, by_chance))
