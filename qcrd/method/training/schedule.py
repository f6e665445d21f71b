"""The training schedule: learning rate and length, by steps or by equal compute."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qcrd.method.training.objectives import OBJECTIVES, Objective, get_objective
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.training_spec import NegativeSource

MAX_UNTRAINED_SHARE = 0.25
"""Share of the training, weighted by its learning rate, that may learn from negatives of the
untrained student, where the length of an iteration is ours to choose."""

UNTRAINED_ONLY_ADVICE = (
    "it never looks back at what it has learned; `negatives.source: student_lag` with a lower "
    "`negatives.lag`, or shorter `hyperparameters.iteration_steps`, makes it do so"
)
"""Where that share is all of the training."""


@dataclass(frozen=True)
class TrainingSchedule:
    """What one student's training does. It ends after `steps` optimizer steps, or, where `flops`
    is given, when that much floating-point work is spent, whatever number of steps that takes.
    It is validated every `validation_steps`. A step is computed in `micro_batches` parts, one after
    the other."""

    method: str
    spec: MethodSpec
    seed: int
    iteration_steps: int
    steps: int
    flops: float | None = None
    micro_batches: int = 1
    validation_steps: int = 1

    @property
    def objective(self) -> Objective:
        return get_objective(self.method, self.spec.student.answers)

    def completed_fraction(self, step: int, flops: float) -> float:
        """Share of the planned work that is done, 1 at the end."""
        return step / self.steps if self.flops is None else flops / self.flops

    def learning_rate(self, step: int, flops: float) -> float:
        """Linear warm-up to the rate, then linear decay from there to zero at the end."""
        hyper = self.spec.hyperparameters
        if step < hyper.warmup_steps:
            return hyper.learning_rate * (step + 1) / hyper.warmup_steps
        done = self.completed_fraction(step, flops)
        # Where compute ends the training, the steps so far say what share the warm-up took.
        warmup = done * hyper.warmup_steps / step if step else 0.0
        return hyper.learning_rate * max(0.0, 1 - done) / max(1 - warmup, 1e-9)

    def is_validated(self, first_step: int, last_step: int) -> bool:
        """Whether a validation is due behind the steps from `first_step` to before `last_step`."""
        return last_step // self.validation_steps > first_step // self.validation_steps


def make_schedule(
    method: str, spec: MethodSpec, *, n_examples: int, seed: int, flops: float | None = None
) -> TrainingSchedule:
    """The schedule of `spec` for `n_examples` training questions."""
    hyper = spec.hyperparameters
    return TrainingSchedule(
        method,
        spec,
        seed,
        iteration_steps=get_iteration_steps(method, spec, n_examples),
        steps=hyper.get_total_steps(n_examples),
        flops=flops,
        validation_steps=hyper.iteration_steps or hyper.get_pass_steps(n_examples),
    )


def get_iteration_steps(method: str, spec: MethodSpec, n_examples: int) -> int:
    """Steps of an iteration: what the spec says, else what `MAX_UNTRAINED_SHARE` allows, at most a
    pass.

    Under linear decay the first share x of the steps has 1 - (1 - x)² of the learning rate, and it
    is the first `lag` + 1 iterations that look back at the untrained student.
    """
    hyper, one_pass = spec.hyperparameters, spec.hyperparameters.get_pass_steps(n_examples)
    if hyper.iteration_steps is not None:
        return hyper.iteration_steps
    if not _samples_earlier_selves(method, spec):
        return one_pass
    first_share = 1 - math.sqrt(1 - MAX_UNTRAINED_SHARE)
    steps = hyper.get_total_steps(n_examples) * first_share / (spec.negatives.lag + 1)
    return max(1, min(one_pass, math.floor(steps)))


def compute_untrained_share(method: str, spec: MethodSpec, n_examples: int) -> float | None:
    """Share of the training, weighted by its learning rate, whose negatives are the untrained
    student's; None for a method that samples neither that one nor its earlier selves."""
    if _samples_untrained_throughout(method, spec):
        return 1.0
    if not _samples_earlier_selves(method, spec):
        return None
    schedule = make_schedule(method, spec, n_examples=n_examples, seed=0)
    rates = [schedule.learning_rate(step, 0.0) for step in range(schedule.steps)]
    first = (spec.negatives.lag + 1) * schedule.iteration_steps
    return 1.0 if first >= schedule.steps else sum(rates[:first]) / (sum(rates) or 1.0)


def _samples_earlier_selves(method: str, spec: MethodSpec) -> bool:
    is_source = NegativeSource.STUDENT_LAG in spec.negatives.source
    return is_source and OBJECTIVES[method].uses_negatives


def _samples_untrained_throughout(method: str, spec: MethodSpec) -> bool:
    """Without a checkpoint the fixed source is the student before its training."""
    is_source = NegativeSource.FIXED in spec.negatives.source and spec.negatives.checkpoint is None
    return is_source and OBJECTIVES[method].uses_negatives
