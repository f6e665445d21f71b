"""Training pairs of the judge: each question's rationales that should score high, and low."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from qcrd.records.rationales import Rationale, RationaleSource
from qcrd.records.specs.training_spec import NegativeSource

QuestionRationale = tuple[str, str]
"""(question, rationale)."""

UNKNOWN_SOURCE, CORRUPTED_SOURCE = "unnamed", "corrupted"
"""Sources of negatives besides those of `NegativeSource`: unknown, and made from positives."""

HOLDOUT_BUCKETS = 10
"""One pair in ten is never trained on and measures the judge."""
MAX_TRAINED, MAX_HELD_OUT = 8192, 1024
"""Questions of a large set that a judge gets in one call. Pretraining visits 8,000 by default, and
all that is held out is scored after every call."""


@dataclass(frozen=True)
class TrainingPair:
    """One question with the rationales that the judge should score high and low.

    `sources` says where each negative is from (`student_lag`, `teacher_minority`, `fixed`), in the
    order of `negatives`; empty where they are unknown. `ValueError` when it is neither.
    """

    question: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.sources and len(self.sources) != len(self.negatives):
            raise ValueError(f"{len(self.sources)} sources for {len(self.negatives)} negatives")

    @property
    def sourced_negatives(self) -> tuple[tuple[str, str], ...]:
        """(source, negative) of every negative."""
        sources = self.sources or (UNKNOWN_SOURCE,) * len(self.negatives)
        return tuple(zip(sources, self.negatives, strict=True))


NEGATIVE_SOURCES = {
    RationaleSource.TEACHER: NegativeSource.TEACHER_MINORITY,
    RationaleSource.STUDENT: NegativeSource.STUDENT_LAG,
    RationaleSource.FIXED: NegativeSource.FIXED,
}
"""The source of a negative, by its author."""


def make_training_pair(
    question: str, positives: Sequence[Rationale], negatives: Sequence[Rationale]
) -> TrainingPair:
    return TrainingPair(
        question,
        tuple(rationale.text for rationale in positives),
        tuple(rationale.text for rationale in negatives),
        tuple(NEGATIVE_SOURCES[rationale.source].value for rationale in negatives),
    )


def choose_questions(questions: Sequence[str], *, seed: int) -> list[int]:
    """The places of the questions whose pairs a judge gets: of a large set a sample, so that
    neither the call nor its time grows with the set."""
    if len(questions) <= MAX_TRAINED:
        return list(range(len(questions)))
    train, holdout = list[int](), list[int]()
    for place, question in enumerate(questions):
        (holdout if _is_held_out(question) else train).append(place)
    rng = random.Random(f"{seed}/judge")
    chosen = (
        rng.sample(places, min(size, len(places)))
        for places, size in ((train, MAX_TRAINED), (holdout, MAX_HELD_OUT))
    )
    return sorted(itertools.chain(*chosen))


def split_holdout(
    training_pairs: Sequence[TrainingPair],
) -> tuple[list[TrainingPair], list[TrainingPair]]:
    """(training, held out); decided by the question's text alone, so equal in every version."""
    train: list[TrainingPair] = []
    holdout: list[TrainingPair] = []
    for pair in training_pairs:
        (holdout if _is_held_out(pair.question) else train).append(pair)
    return train, holdout


def _is_held_out(question: str) -> bool:
    return random.Random(question).randrange(HOLDOUT_BUCKETS) == 0


def balance_negatives(training_pairs: Sequence[TrainingPair], *, seed: int) -> list[TrainingPair]:
    """Each pair with as many negatives as positives: real ones first, then corrupted positives.

    Only the missing ones: a judge trained mostly on corruption learns to detect that, not errors.
    """
    rng = random.Random(seed)
    words = sorted({word for c in training_pairs for r in c.positives for word in r.split()})
    balanced_pairs = []
    for pair in training_pairs:
        missing = max(0, len(pair.positives) - len(pair.negatives))
        fillers = [
            (CORRUPTED_SOURCE, corrupt_text(text, words, rng)) for text in pair.positives[:missing]
        ]
        balanced_pairs.append(
            _replace_negatives(pair, [*pair.sourced_negatives, *fillers]) if fillers else pair
        )
    return balanced_pairs


def count_real_negatives(training_pairs: Sequence[TrainingPair]) -> dict[str, float]:
    """Metrics of pairs before they are balanced: `questions` with a positive, those of them that
    have a negative too (`questions_with_real_negatives`), and `questions_without_positives`, whose
    negatives teach nothing: eq. 2 sets a question's positives against its own negatives."""
    sides = [(bool(pair.positives), bool(pair.negatives)) for pair in training_pairs]
    return {
        "questions": sides.count((True, True)) + sides.count((True, False)),
        "questions_with_real_negatives": sides.count((True, True)),
        "questions_without_positives": sides.count((False, True)),
    }


def _replace_negatives(
    pair: TrainingPair, sourced_negatives: Sequence[tuple[str, str]]
) -> TrainingPair:
    return TrainingPair(
        pair.question,
        pair.positives,
        tuple(text for _, text in sourced_negatives),
        tuple(source for source, _ in sourced_negatives),
    )


def corrupt_text(text: str, words: Sequence[str], rng: random.Random, *, share: float = 0.3) -> str:
    """`text` with `share` of its words (at least one) blanked out or replaced from `words`."""
    tokens = text.split()
    if not tokens or not words:
        return "..."
    for index in rng.sample(range(len(tokens)), max(1, round(share * len(tokens)))):
        tokens[index] = "..." if rng.random() < 0.5 else rng.choice(words)
    return " ".join(tokens)
