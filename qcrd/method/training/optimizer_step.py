"""One optimizer step of a student: gradients of its share of a batch, then the step itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from qcrd.method.student.base import Student
from qcrd.method.training.schedule import TrainingSchedule
from qcrd.method.training.step_loss import (
    JudgeScores,
    StepLoss,
    StepModule,
    TrainingExample,
    count_step,
)
from qcrd.records.specs.training_spec import Hyperparameters

MAX_PROCESSES = 64
"""Processes that train together have seeds beside each other; parts of a step are further apart."""


class OptimizerStep:
    """A student with its optimizer and the settings of its steps. It can be pickled whole."""

    def __init__(self, student: Student, schedule: TrainingSchedule) -> None:
        self.student = student
        self.module = StepModule(student, schedule.objective, schedule.spec.loss)
        self.micro_batches = schedule.micro_batches
        self.clip_norm = schedule.spec.hyperparameters.clip_norm
        self.optimizer = _make_optimizer(student, schedule.spec.hyperparameters)

    def compute_loss(
        self,
        batch: Sequence[TrainingExample],
        scores: JudgeScores,
        seed: int,
        *,
        reduce_sum: Callable[[float], float] = float,
    ) -> StepLoss:
        """The loss of `batch`, dropout and luck a function of `seed`; gradients are left alone.

        Where `batch` is a share of a larger one, `reduce_sum` gives a count's sum over all shares.
        """
        torch.manual_seed(seed)
        self.student.model.train()
        generator = torch.Generator().manual_seed(seed)
        loss: StepLoss = self.module(batch, scores, generator, reduce_sum)
        return loss

    def backward(
        self,
        batch: Sequence[TrainingExample],
        scores: JudgeScores,
        seed: int,
        *,
        reduce_sum: Callable[[float], float] = float,
    ) -> dict[str, float]:
        """The gradients of `batch`, and the terms of its loss. In several parts they are the same
        sums, in less memory; dropout and luck differ."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.micro_batches == 1:
            return self._backward_part(batch, scores, seed, reduce_sum)
        own_counts = count_step(self.student, batch, self.module.objective, self.module.spec)
        counts = [reduce_sum(count) for count in own_counts]
        losses: Counter[str] = Counter()
        for number in range(self.micro_batches):
            # Every part is divided by the whole step's counts, which it asks for in this order.
            part_losses = self._backward_part(
                batch[number :: self.micro_batches],
                scores,
                seed + MAX_PROCESSES * number,
                partial(_take_next, iter(counts)),
            )
            losses.update(part_losses)
        return dict(losses)

    def _backward_part(
        self,
        batch: Sequence[TrainingExample],
        scores: JudgeScores,
        seed: int,
        reduce_sum: Callable[[float], float],
    ) -> dict[str, float]:
        step_loss = self.compute_loss(batch, scores, seed, reduce_sum=reduce_sum)
        if step_loss.total.requires_grad:
            step_loss.total.backward()
        return step_loss.losses

    def clip_gradients(self) -> float:
        """The gradient's norm before it is clipped to the plan's."""
        return float(torch.nn.utils.clip_grad_norm_(self.parameters(), self.clip_norm))

    def apply(self, learning_rate: float) -> None:
        """The optimizer's step at learning rate `learning_rate`, of which a group takes its
        share."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["share"]
        self.optimizer.step()

    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def _make_optimizer(student: Student, hyper: Hyperparameters) -> torch.optim.Optimizer:
    """AdamW over what is not frozen. A group's `share` scales the schedule's rate."""
    encoder_ids = {id(p) for p in student.encoder_parameters()}
    encoder: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for parameter in student.model.parameters():
        if parameter.requires_grad:
            (encoder if id(parameter) in encoder_ids else rest).append(parameter)
    encoder_share = (hyper.encoder_learning_rate or hyper.learning_rate) / hyper.learning_rate
    # A decoder-only student has the same parameters for prompt and output.
    groups = [
        {"params": encoder, "share": encoder_share if rest else 1.0},
        {"params": rest, "share": 1.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=hyper.learning_rate,
        weight_decay=hyper.weight_decay,
    )


def _take_next(counts: Iterator[float], _: float) -> float:
    """The next of the whole step's counts, in the place of a part's own."""
    return next(counts)
