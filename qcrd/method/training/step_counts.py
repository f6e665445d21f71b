"""What a step's sums are divided by, whole though it may be computed in shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from qcrd.method.student.base import Student
from qcrd.method.student.targets import reasoned_target
from qcrd.method.training.objectives import Objective
from qcrd.method.training.training_example import (
    TrainingExample,
    has_rationales,
    make_label_target,
)
from qcrd.records.specs.training_spec import LossSpec


class StepCounts(NamedTuple):
    """What a step divides by: tokens of the labels, N of eq. 3, and tokens of the answers behind
    rationales."""

    label_tokens: int
    contrasted: int
    answer_tokens: int


def count_step(
    student: Student, batch: Sequence[TrainingExample], objective: Objective, spec: LossSpec
) -> StepCounts:
    """The counts of a whole step, which may be computed in shares."""
    labels = [student.tokenize_target(make_label_target(e, objective)) for e in batch]
    n_contrasted = 0 if objective.max_positives == 0 else _count_contrasted(batch, objective, spec)
    answered = [e for e in batch if e.positives] if objective.reasons else []
    answers = [student.tokenize_parts(reasoned_target("", e.label))[1] for e in answered]
    return StepCounts(
        sum(map(len, labels)) if objective.predicts else 0,
        n_contrasted,
        sum(map(len, answers)),
    )


def _count_contrasted(
    batch: Sequence[TrainingExample], objective: Objective, spec: LossSpec
) -> int:
    """N of eq. 3."""
    if spec.contrast_normaliser == "all":
        return len(batch)
    return sum(has_rationales(example, objective) for example in batch)
