"""Negatives of an iteration: what is asked of the student's earlier selves, and what is used."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from qcrd.method.student.base import Weights
from qcrd.method.training.negative_sampler import (
    NegativeSampleRequest,
    NegativeSamplingParams,
    SampledRationales,
)
from qcrd.method.training.schedule import TrainingSchedule
from qcrd.method.training.step_loss import TrainingExample
from qcrd.method.training.weight_history import WeightHistory
from qcrd.records.rationales import Rationale, RationaleSource
from qcrd.records.specs.training_spec import NegativeSource


def make_sample_requests(
    schedule: TrainingSchedule,
    examples: Sequence[TrainingExample],
    iteration: int,
    weight_history: WeightHistory,
    fixed_weights: Weights | None,
) -> list[NegativeSampleRequest]:
    """By lag, then the fixed; `fixed_weights` None: the student before it was trained."""
    sources = schedule.spec.negatives.source
    if not schedule.objective.uses_negatives:
        return []
    requests: list[NegativeSampleRequest] = []
    if NegativeSource.STUDENT_LAG in sources:
        params = _make_sampling_params(schedule, examples, iteration, RationaleSource.STUDENT)
        requests.append((weight_history.get_lagged(iteration), params))
    if NegativeSource.FIXED in sources:
        weights = weight_history.by_iteration[0] if fixed_weights is None else fixed_weights
        params = _make_sampling_params(schedule, examples, iteration, RationaleSource.FIXED)
        requests.append((weights, params))
    return requests


def _make_sampling_params(
    schedule: TrainingSchedule,
    examples: Sequence[TrainingExample],
    iteration: int,
    source: RationaleSource,
) -> NegativeSamplingParams:
    spec = schedule.spec.negatives
    salt = f"{schedule.seed}/sample/{source.value}/{iteration}"
    return NegativeSamplingParams(
        questions=tuple((x.id, x.text) for x in examples if x.positives),
        n=spec.n,
        temperature=spec.temperature,
        max_new_tokens=schedule.spec.hyperparameters.max_rationale_tokens,
        seed=random.Random(salt).getrandbits(31),
        tag=f"{source.value[0]}{iteration}",
        source=source,
    )


def attach_negatives(
    schedule: TrainingSchedule, examples: Sequence[TrainingExample], samples: SampledRationales
) -> Sequence[TrainingExample]:
    """The examples with the negatives of the spec's sources, where the method uses any."""
    if not schedule.objective.uses_negatives:
        return examples
    uses_minority = NegativeSource.TEACHER_MINORITY in schedule.spec.negatives.source
    return [
        replace(
            example,
            negatives=(example.negatives if uses_minority else ())
            + _select_samples(example, samples.get(example.id, ())),
        )
        for example in examples
    ]


def _select_samples(
    example: TrainingExample, sampled: Sequence[Rationale]
) -> tuple[Rationale, ...]:
    """A sample equal to a positive is right, and so no negative."""
    positive_texts = {rationale.text for rationale in example.positives}
    return tuple(rationale for rationale in sampled if rationale.text not in positive_texts)
