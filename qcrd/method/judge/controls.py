"""Controls of the judge: what a method does with scores that know nothing, or everything."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from qcrd.method.judge.training_pairs import QuestionRationale, TrainingPair
from qcrd.records.job import JudgeHistograms

CONSTANT_SCORE = 0.5


class ConstantJudge:
    """Scores every rationale .5, which shrinks both terms alike; it learns nothing and costs
    nothing."""

    flops = 0.0
    histograms: JudgeHistograms | None = None
    oldest_version = 0

    def pretrain(self, training_pairs: Sequence[TrainingPair]) -> dict[str, float]:
        return {}

    def update(
        self, iteration: int, training_pairs: Sequence[TrainingPair], *, weight: float
    ) -> dict[str, float]:
        return {}

    def score(self, pairs: Sequence[QuestionRationale]) -> list[float]:
        return [CONSTANT_SCORE] * len(pairs)


def shuffle_scores(scores: Mapping[str, float], *, salt: str) -> dict[str, float]:
    """The same scores, each of another rationale wherever it falls by a permutation of `salt`."""
    values = list(scores.values())
    random.Random(salt).shuffle(values)
    return dict(zip(scores, values, strict=True))


def score_by_answer(
    answers: Mapping[str, tuple[str | None, str]], is_positive: Callable[[str], bool]
) -> dict[str, float]:
    """1 where a rationale's answer is the gold one and 0 where it is another; of one that names
    none, by its side. `answers`: (answer, gold) by rationale."""
    return {
        name: float(is_positive(name) if answer is None else answer == gold)
        for name, (answer, gold) in answers.items()
    }
