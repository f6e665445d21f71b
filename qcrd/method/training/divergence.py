"""Divergence of a training: numbers that it does not come back from."""

from __future__ import annotations

import math
from collections.abc import Mapping

from qcrd.errors import Diverged
from qcrd.method.losses import loss_lower_bound
from qcrd.method.training.schedule import TrainingSchedule

MAX_GRADIENT_NORM = 1e4
"""A gradient's norm that no training comes back from, clipped or not."""


def check_losses(schedule: TrainingSchedule, step: int, losses: Mapping[str, float]) -> None:
    """`Diverged` when a term is not finite, or the loss is lower than it can be."""
    for name, value in losses.items():
        if not math.isfinite(value):
            raise Diverged(_make_message(schedule, step, f"the term `{name}`", value))
    spec, loss = schedule.spec.loss, losses["loss"]
    if loss < loss_lower_bound(spec.alpha[1], spec.beta, spec.delta):
        raise Diverged(_make_message(schedule, step, "the loss", loss))


def check_gradient_norm(schedule: TrainingSchedule, step: int, norm: float) -> None:
    if not norm < MAX_GRADIENT_NORM:  # nor is NaN
        raise Diverged(_make_message(schedule, step, "the gradient's norm", norm))


def _make_message(schedule: TrainingSchedule, step: int, quantity: str, value: float) -> str:
    return (
        f"step {step + 1} of {schedule.method}: {quantity} is {value}; lower "
        "`hyperparameters.learning_rate` or `loss.beta`, or add `hyperparameters.warmup_steps`"
    )
