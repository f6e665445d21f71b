"""What an iteration trains with, and the best student so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from qcrd.method.batching import iterate_batches
from qcrd.method.student.base import Weights
from qcrd.method.training.negatives.sample_filter import SampledRationales
from qcrd.method.training.schedule import TrainingSchedule
from qcrd.method.training.training_example import TrainingExample
from qcrd.records.job import JudgeHistograms

ValidationScore = tuple[float, float]
"""(validation accuracy, minus the label's mean cross entropy): higher is better, in this order."""


@dataclass(frozen=True)
class IterationData:
    """The input of an iteration: the student's earlier samples by question, the judge's
    score of every rationale by its id, the judge's health and what was measured of the samples."""

    samples: SampledRationales = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    judge_metrics: dict[str, float] = field(default_factory=dict)
    histograms: JudgeHistograms | None = None
    negative_metrics: dict[str, float] = field(default_factory=dict)
    reference: dict[str, float] = field(default_factory=dict)
    """Log-probability of every rationale under the untrained student, where the loss asks for it.
    """


@dataclass(frozen=True)
class BestStudent:
    """The iteration with the best validation score so far."""

    score: ValidationScore
    iteration: int
    weights: Weights


def iterate_iteration(
    schedule: TrainingSchedule, examples: Sequence[TrainingExample], first_step: int
) -> Iterator[list[TrainingExample]]:
    """The batches of the iteration that begins with `first_step`."""
    steps = schedule.iteration_steps
    if schedule.flops is None:
        steps = min(steps, schedule.steps - first_step)
    return iterate_batches(
        examples,
        batch_size=schedule.spec.hyperparameters.batch_size,
        first_step=first_step,
        steps=steps,
        seed=schedule.seed,
    )


def select_examples(
    schedule: TrainingSchedule, examples: Sequence[TrainingExample], first_step: int
) -> list[TrainingExample]:
    """The questions of the iteration that begins with `first_step`: no others are sampled for, or
    judged."""
    used = {e.id for batch in iterate_iteration(schedule, examples, first_step) for e in batch}
    return [example for example in examples if example.id in used]
