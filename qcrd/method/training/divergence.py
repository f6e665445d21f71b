"""Divergence of a training: numbers that it does not come back from, by what has them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from qcrd.errors import Diverged
from qcrd.method.training.schedule import TrainingSchedule

MAX_GRADIENT_NORM = 1e4
"""A gradient's norm that no training comes back from, clipped or not."""
MIN_STEPS = 10
"""Steps whose mean says something about the student, and not about a batch."""


def check_losses(schedule: TrainingSchedule, step: int, losses: Mapping[str, float]) -> None:
    """`Diverged` when a term is not finite; named is a part before the total that it is in."""
    for name, value in sorted(losses.items(), key=lambda term: term[0] == "loss"):
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


class CollapseCheck:
    """Whether a student that had learned something says less than one that guesses each token.

    `vocabulary` tokens guessed evenly cost ln(vocabulary) each. A student may begin there; later
    steps whose mean is, are lost: finite losses hide that. They are counted across iterations,
    which may have few. `recent` are the last values of each term, all that the check remembers.
    """

    def __init__(self, vocabulary: int) -> None:
        self.guessing = math.log(vocabulary)
        self.recent: dict[str, list[float]] = {}

    def add(self, schedule: TrainingSchedule, step: int, losses: Mapping[str, float]) -> None:
        """Take note of a step, counted from 0; `Diverged` when the last ones were worse than
        guessing."""
        first_checked = _count_first_steps(schedule) + MIN_STEPS - 1
        for name in _find_token_terms(losses):
            values = [*self.recent.get(name, ()), losses[name]][-MIN_STEPS:]
            self.recent[name] = values
            mean = math.fsum(values) / len(values)
            if step >= first_checked and len(values) == MIN_STEPS and mean > self.guessing:
                raise Diverged(
                    _make_message(
                        schedule,
                        step,
                        f"the mean of `{name}` over the last {MIN_STEPS} steps",
                        f"{mean:.2f} nats, more than the {self.guessing:.2f} of guessing every "
                        "token",
                    )
                )


def _count_first_steps(schedule: TrainingSchedule) -> int:
    """Steps in which a student may be no better than guessing: the first that are validated
    together, and the warm-up."""
    warmup_steps = schedule.spec.hyperparameters.warmup_steps
    return max(MIN_STEPS, schedule.validation_steps, warmup_steps)


def _find_token_terms(losses: Mapping[str, float]) -> list[str]:
    """The terms that are nats per token. A joined student's loss is its label's and rationale's in
    one, and has no other."""
    parts = [name for name in ("label", "positive") if name in losses]
    return parts or ["loss"]


def _make_message(schedule: TrainingSchedule, step: int, quantity: str, value: float | str) -> str:
    return (
        f"step {step + 1} of {schedule.method}: {quantity} is {value}; lower "
        "`hyperparameters.learning_rate` or `loss.beta`, or add `hyperparameters.warmup_steps`"
    )
