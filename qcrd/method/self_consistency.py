"""Self-consistency: the vote over canonical answers, which splits rationales by polarity."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from qcrd.records.rationales import Rationale, Vote

PositiveRule = Literal["majority", "gold", "majority_and_gold", "all"]


def majority_vote(answers: Sequence[str | None], salt: str = "") -> Vote:
    """Majority of the parsed answers; None entries are unparseable outputs and do not vote.

    The order of the answers does not matter. A tie is marked as one and broken by a digest of
    `salt` (the question's id) and the answer, so that no answer wins all ties of a task.
    """
    counts = Counter(answer for answer in answers if answer is not None)
    unparseable = sum(answer is None for answer in answers)
    if not counts:
        return Vote(answer=None, margin=0.0, tie=False, counts={}, unparseable=unparseable)
    ranked = sorted(counts, key=lambda answer: (-counts[answer], _digest(salt, answer)))
    lead = counts[ranked[0]] - (counts[ranked[1]] if len(ranked) > 1 else 0)
    return Vote(
        answer=ranked[0],
        margin=lead / counts.total(),
        tie=lead == 0,
        counts=dict(sorted(counts.items())),
        unparseable=unparseable,
    )


def split_rationales(
    rationales: Sequence[Rationale], vote_result: Vote, rule: PositiveRule, gold: str | None
) -> tuple[tuple[Rationale, ...], tuple[Rationale, ...]]:
    """(S_pos, teacher negatives). Every rationale is in exactly one of them, in its given order."""

    def is_positive(rationale: Rationale) -> bool:
        matches_majority = rationale.answer is not None and rationale.answer == vote_result.answer
        matches_gold = rationale.answer is not None and rationale.answer == gold
        return {
            "majority": matches_majority,
            "gold": matches_gold,
            "majority_and_gold": matches_majority and matches_gold,
            "all": True,
        }[rule]

    positives = tuple(r for r in rationales if is_positive(r))
    negatives = tuple(r for r in rationales if not is_positive(r))
    return positives, negatives


def _digest(salt: str, answer: str) -> str:
    return hashlib.sha256(f"{salt}\x1f{answer}".encode()).hexdigest()
