"""The training schedule: learning rate and length, by steps or by equal compute."""

from __future__ import annotations

from dataclasses import dataclass

from qcrd.method.training.objectives import OBJECTIVES, Objective
from qcrd.records.specs.spec import MethodSpec


@dataclass(frozen=True)
class TrainingSchedule:
    """What one student's training does. It ends after `steps` optimizer steps, or, where `flops`
    is given, when that much floating-point work is spent, whatever number of steps that takes.
    A step is computed in `micro_batches` parts, one after the other."""

    method: str
    spec: MethodSpec
    seed: int
    iteration_steps: int
    steps: int
    flops: float | None = None
    micro_batches: int = 1

    @property
    def objective(self) -> Objective:
        return OBJECTIVES[self.method]

    def completed_fraction(self, step: int, flops: float) -> float:
        """Share of the planned work that is done, 1 at the end."""
        return step / self.steps if self.flops is None else flops / self.flops

    def learning_rate(self, step: int, flops: float) -> float:
        """Linear warm-up, then linear decay to zero over the planned work."""
        hyper = self.spec.hyperparameters
        if step < hyper.warmup_steps:
            return hyper.learning_rate * (step + 1) / hyper.warmup_steps
        return hyper.learning_rate * max(0.0, 1 - self.completed_fraction(step, flops))


def make_schedule(
    method: str, spec: MethodSpec, *, n_examples: int, seed: int, flops: float | None = None
) -> TrainingSchedule:
    """The schedule of `spec` for `n_examples` training questions."""
    hyper = spec.hyperparameters
    per_iteration = hyper.get_iteration_steps(n_examples)
    return TrainingSchedule(
        method, spec, seed, per_iteration, per_iteration * hyper.iterations, flops
    )
