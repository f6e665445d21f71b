"""What is said of two methods, and how many seeds it takes to say it.

How a verdict is reached is `qcrd.method.evaluation.verdicts`; here is what a record has of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

MIN_SEEDS = 5
"""Fewest seeds for a verdict on methods: with them a t test finds differences of 1.2 times their sd
over seeds, with three of 2.5 times (docs/decisions/0019-verdicts.md)."""
EQUIVALENCE_MARGIN = 0.015
"""Differences below it are taken for none, as a share: 1.5 points of accuracy."""
MAX_SEEDS_NEEDED = 1000
"""Larger numbers of needed seeds are not told apart: they are given as one more than this."""
SEED_SCATTER = 0.01
"""Taken for the sd, over seeds, of one method's accuracy where one seed cannot show it."""


class Verdict(StrEnum):
    """Of a method against the baseline, on the study's test questions."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no difference"
    CANNOT_TELL = "cannot tell"


def format_seeds_needed(seeds: int | None) -> str:
    """`about 24`; nothing where it is not known."""
    if seeds is None:
        return ""
    return f"over {MAX_SEEDS_NEEDED:,}" if seeds > MAX_SEEDS_NEEDED else f"about {seeds:,}"


def describe_one_seed(seeds_needed: Iterable[int | None]) -> str:
    """The verdict on the methods of a job, of each of which one student was trained.

    `seeds_needed` are those of its comparisons; the largest is told.
    """
    told = (
        f"{Verdict.CANNOT_TELL}: another seed would train other students. A study of at least "
        f"{MIN_SEEDS} seeds can"
    )
    known = [seeds for seeds in seeds_needed if seeds is not None]
    if not known:
        return told
    return (
        f"{told}; {format_seeds_needed(max(known))} would find a difference of "
        f"{100 * EQUIVALENCE_MARGIN:g} points with 80 % power, if a method's "
        f"accuracy scatters by {100 * SEED_SCATTER:g} point over seeds, as is assumed"
    )
