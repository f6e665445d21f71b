"""What the judge learns from: each question's rationales that should score high, and low."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from qcrd.records.rationales import Rationale, RationaleSource
from qcrd.records.spec import NegativeSource

Pair = tuple[str, str]
"""(question, rationale)."""

UNNAMED, CORRUPTED = "unnamed", "corrupted"
"""Sources of negatives besides those of `NegativeSource`: not told, and made from positives."""

HELD_BACK = 10
"""One contrast in ten is never trained on and measures the judge."""


@dataclass(frozen=True)
class Contrast:
    """One question with what the judge should score high and low.

    `sources` says where each negative is from (`student_lag`, `teacher_minority`, `fixed`), in the
    order of `negatives`; empty where nobody knows. `ValueError` when it is neither.
    """

    question: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.sources and len(self.sources) != len(self.negatives):
            raise ValueError(f"{len(self.sources)} sources for {len(self.negatives)} negatives")

    @property
    def named(self) -> tuple[tuple[str, str], ...]:
        """(source, negative) of every negative."""
        sources = self.sources or (UNNAMED,) * len(self.negatives)
        return tuple(zip(sources, self.negatives, strict=True))


NAMES = {
    RationaleSource.TEACHER: NegativeSource.TEACHER_MINORITY,
    RationaleSource.STUDENT: NegativeSource.STUDENT_LAG,
    RationaleSource.FIXED: NegativeSource.FIXED,
}
"""What a negative is called by who said it."""


def contrast(
    question: str, positives: Sequence[Rationale], negatives: Sequence[Rationale]
) -> Contrast:
    return Contrast(
        question,
        tuple(rationale.text for rationale in positives),
        tuple(rationale.text for rationale in negatives),
        tuple(NAMES[rationale.source].value for rationale in negatives),
    )


def held_back(contrasts: Sequence[Contrast]) -> tuple[list[Contrast], list[Contrast]]:
    """(trained on, held back); decided by the question's text alone, so equal in every version."""
    trained: list[Contrast] = []
    kept: list[Contrast] = []
    for contrast in contrasts:
        bucket = random.Random(contrast.question).randrange(HELD_BACK)
        (kept if bucket == 0 else trained).append(contrast)
    return trained, kept


def balanced(contrasts: Sequence[Contrast], *, seed: int) -> list[Contrast]:
    """Each contrast with as many negatives as positives: real ones first, then corrupted positives.

    Only filled up: a judge fed mostly on corruption learns to spot corruption instead of error.
    """
    rng = random.Random(seed)
    words = sorted({word for c in contrasts for r in c.positives for word in r.split()})
    filled = []
    for contrast in contrasts:
        missing = max(0, len(contrast.positives) - len(contrast.negatives))
        made = [(CORRUPTED, corrupted(text, words, rng)) for text in contrast.positives[:missing]]
        filled.append(_with_negatives(contrast, [*contrast.named, *made]) if made else contrast)
    return filled


def _with_negatives(contrast: Contrast, named: Sequence[tuple[str, str]]) -> Contrast:
    return Contrast(
        contrast.question,
        contrast.positives,
        tuple(text for _, text in named),
        tuple(source for source, _ in named),
    )


def corrupted(text: str, words: Sequence[str], rng: random.Random, *, share: float = 0.3) -> str:
    """`text` with `share` of its words (at least one) blanked out or replaced from `words`."""
    parts = text.split()
    if not parts or not words:
        return "..."
    for index in rng.sample(range(len(parts)), max(1, round(share * len(parts)))):
        parts[index] = "..." if rng.random() < 0.5 else rng.choice(words)
    return " ".join(parts)
