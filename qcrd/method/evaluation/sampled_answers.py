"""Several outputs per question: their vote, a judge's best of them, and its weighted vote."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from qcrd.method.judge.training_pairs import TrainingPair
from qcrd.method.self_consistency import majority_vote
from qcrd.records.rationales import Prediction
from qcrd.records.reports.accuracy import Accuracy
from qcrd.records.students.confidence import compute_vote_features

SampledAnswers = Sequence[Sequence[Prediction]]
"""Per question its outputs."""


def choose_by_vote(samples: SampledAnswers) -> list[Prediction]:
    """Of each question the first output with the answer that most of its outputs have."""
    return [_find_voted(outputs) for outputs in samples]


def choose_best(samples: SampledAnswers, scores: Sequence[Sequence[float]]) -> list[Prediction]:
    """Of each question the output with the highest score, the first of several."""
    return [
        outputs[max(range(len(outputs)), key=lambda i: (own[i], -i))]
        for outputs, own in zip(samples, scores, strict=True)
    ]


def choose_by_weight(
    samples: SampledAnswers, scores: Sequence[Sequence[float]]
) -> list[Prediction]:
    """Of each question the likeliest output of the answer whose outputs' scores sum to most."""
    chosen = []
    for outputs, own in zip(samples, scores, strict=True):
        totals: dict[str | None, float] = {}
        for output, score in zip(outputs, own, strict=True):
            # No answer wins only where there is no other.
            weight = score if output.answer is not None else 0.0
            totals[output.answer] = totals.get(output.answer, 0.0) + weight
        best = max(totals, key=lambda answer: totals[answer])
        chosen.append(next(output for output in outputs if output.answer == best))
    return chosen


def list_vote_features(
    samples: SampledAnswers,
    chosen: Sequence[Prediction],
    scores: Sequence[Sequence[float]] | None = None,
) -> list[dict[str, float]]:
    """What is known of each chosen answer: its share of the outputs, the mean log-odds that the
    student gave it in them, and the judge's mean score of them, all as log-odds."""
    return [
        compute_vote_features(
            [(p.answer_logprob, None if scores is None else scores[i][j])
             for j, p in enumerate(outputs) if p.answer == one.answer],
            len(outputs),
        )
        for i, (outputs, one) in enumerate(zip(samples, chosen, strict=True))
    ]  # fmt: skip


def _find_voted(outputs: Sequence[Prediction]) -> Prediction:
    voted = majority_vote([p.answer for p in outputs], salt=outputs[0].question_id).answer
    return next(p for p in outputs if p.answer == voted)


def count_tokens(row: Accuracy, samples: SampledAnswers) -> Accuracy:
    """`row` with the tokens of all of a question's outputs."""
    total = sum(output.tokens or 0 for outputs in samples for output in outputs)
    return row.model_copy(update={"answer_tokens": total / len(samples)})


def make_answer_pairs(
    texts: Mapping[str, str], samples: SampledAnswers, *, seed: int
) -> list[TrainingPair]:
    """Per question its right outputs and its wrong ones, both with their answers in sight; those
    that have both. As many right ones as wrong ones at most: a text that is corrupted to make up
    for a missing one would be told by that, and not by its answer."""
    rng = random.Random(seed)
    pairs = []
    for outputs in samples:
        right = list(dict.fromkeys(p.text for p in outputs if p.right))
        wrong = list(dict.fromkeys(p.text for p in outputs if not p.right))
        if right and wrong:
            rng.shuffle(right)
            question = texts[outputs[0].question_id]
            pairs.append(TrainingPair(question, tuple(right[: len(wrong)]), tuple(wrong)))
    return pairs
