"""Divergence of a training: numbers that it does not come back from, by what has them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from qcrd.errors import Diverged
from qcrd.method.training.schedule import TrainingSchedule

MAX_GRADIENT_NORM = 1e4
"""A gradient's norm that no training comes back from, clipped or not."""
MIN_STEPS = 10
"""Steps of an iteration whose mean says something about the student, and not about a batch."""


def check_losses(schedule: TrainingSchedule, step: int, losses: Mapping[str, float]) -> None:
    """`Diverged` when a term is not finite."""
    for name, value in losses.items():
        if not math.isfinite(value):
            raise Diverged(_make_message(schedule, step, f"the term `{name}`", value))


def check_gradient_norm(schedule: TrainingSchedule, step: int, norm: float) -> None:
    if not norm < MAX_GRADIENT_NORM:  # nor is NaN
        raise Diverged(_make_message(schedule, step, "the gradient's norm", norm))


def check_scores(scores: Mapping[str, float]) -> None:
    """`Diverged` when the judge gives a rationale no number."""
    if not all(map(math.isfinite, scores.values())):
        raise Diverged(
            "the quality judge has diverged: a score is no number; lower "
            "`discriminator.learning_rate`"
        )


@dataclass
class CollapseCheck:
    """Whether a student that had learned something says less than one that guesses each token.

    `vocabulary` tokens guessed evenly cost ln(vocabulary) each. The first iteration may be there;
    a later one whose mean label or positive term is, is lost: finite losses hide that.
    """

    vocabulary: int
    _sums: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, losses: Mapping[str, float]) -> None:
        for name in ("label", "positive"):
            if name in losses:
                self._sums[name].append(losses[name])

    def finish(self, schedule: TrainingSchedule, step: int, iteration: int) -> None:
        """Close an iteration, counted from 0; `Diverged` when it was worse than guessing."""
        sums, self._sums = self._sums, defaultdict(list)
        guessing = math.log(self.vocabulary)
        for name, values in sums.items():
            mean = math.fsum(values) / len(values)
            if iteration > 0 and len(values) >= MIN_STEPS and mean > guessing:
                raise Diverged(
                    _make_message(
                        schedule,
                        step - 1,
                        f"the mean of `{name}` over the iteration",
                        f"{mean:.2f} nats, more than the {guessing:.2f} of guessing every token",
                    )
                )


def _make_message(schedule: TrainingSchedule, step: int, quantity: str, value: float | str) -> str:
    return (
        f"step {step + 1} of {schedule.method}: {quantity} is {value}; lower "
        "`hyperparameters.learning_rate` or `loss.beta`, or add `hyperparameters.warmup_steps`"
    )
