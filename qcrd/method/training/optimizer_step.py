"""One optimizer step of a student: gradients of its share of a batch, then the step itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from qcrd.method.student.base import Student
from qcrd.method.training.objectives import Objective
from qcrd.method.training.schedule import Plan
from qcrd.method.training.step_loss import Lesson, Scores, Terms, step_terms
from qcrd.records.spec import Hyperparameters, LossSpec


class Update:
    """A student with its optimizer and what its steps are made of. It can be pickled whole."""

    def __init__(self, student: Student, plan: Plan) -> None:
        self.student = student
        self.objective: Objective = plan.objective
        self.loss: LossSpec = plan.spec.loss
        self.clip_norm = plan.spec.hyperparameters.clip_norm
        self.optimizer = _optimizer(student, plan.spec.hyperparameters)

    def gradients(
        self,
        batch: Sequence[Lesson],
        scores: Scores,
        seed: int,
        *,
        summed: Callable[[float], float] = float,
    ) -> Terms:
        """The loss of `batch`, dropout and luck a function of `seed`. `backward` comes after.

        Where `batch` is a share of a larger one, `summed` gives a count's sum over all shares.
        """
        torch.manual_seed(seed)
        self.student.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        generator = torch.Generator().manual_seed(seed)
        return step_terms(
            self.student, batch, self.objective, self.loss, scores, generator, summed=summed
        )

    def clip(self) -> float:
        """The gradient's norm before it is clipped to the plan's."""
        return float(torch.nn.utils.clip_grad_norm_(self.parameters(), self.clip_norm))

    def apply(self, rate: float) -> None:
        """The optimizer's step at learning rate `rate`, of which a group takes its share."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.step()

    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def _optimizer(student: Student, hyper: Hyperparameters) -> torch.optim.Optimizer:
    """AdamW over what is not frozen. A group's `share` scales the schedule's rate."""
    readers = {id(p) for p in student.encoder_parameters()}
    encoder: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for parameter in student.model.parameters():
        if parameter.requires_grad:
            (encoder if id(parameter) in readers else rest).append(parameter)
    share = (hyper.encoder_learning_rate or hyper.learning_rate) / hyper.learning_rate
    # A decoder-only student has one set of parameters, which read and write.
    groups = [{"params": encoder, "share": share if rest else 1.0}, {"params": rest, "share": 1.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=hyper.learning_rate,
        weight_decay=hyper.weight_decay,
    )
