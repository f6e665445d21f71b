"""One optimizer step of a student: gradients of its share of a batch, then the step itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from qcrd.method.student.base import Student
from qcrd.method.training.schedule import TrainingSchedule
from qcrd.method.training.step_loss import (
    JudgeScores,
    StepLoss,
    StepModule,
    TrainingExample,
    count_step,
)
from qcrd.method.weight_decay import make_decay_groups
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
        encoder, rest = _split_parameters(student)
        self._parameters = [p for _, p in (*encoder, *rest)]
        self.optimizer = _make_optimizer(encoder, rest, schedule.spec.hyperparameters)

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
        measure: bool = False,
    ) -> dict[str, float]:
        """The gradients of `batch`, and the terms of its loss. In several parts they are the same
        sums, in less memory; dropout and luck differ.

        `measure`: with the norms of the gradients of the positive and the negative term, of the
        first part, where a negative is in force.
        """
        self.optimizer.zero_grad(set_to_none=True)
        if self.micro_batches == 1:
            return self._backward_part(batch, scores, seed, reduce_sum, measure)
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
                measure and number == 0,
            )
            losses.update(part_losses)
        return dict(losses)

    def _backward_part(
        self,
        batch: Sequence[TrainingExample],
        scores: JudgeScores,
        seed: int,
        reduce_sum: Callable[[float], float],
        measure: bool,
    ) -> dict[str, float]:
        loss = self.compute_loss(batch, scores, seed, reduce_sum=reduce_sum)
        norms = self._measure_terms(loss) if measure else {}
        if loss.total.requires_grad:
            loss.total.backward()
        return {**loss.losses, **norms}

    def _measure_terms(self, loss: StepLoss) -> dict[str, float]:
        """Norms of the gradients of the contrast's two terms, as they enter the loss."""
        if loss.positive is None or loss.negative is None or not loss.losses["negative"]:
            return {}
        return {
            f"{name}_gradient": self._gradient_norm(term)
            for name, term in (("positive", loss.positive), ("negative", loss.negative))
        }

    def _gradient_norm(self, term: Tensor) -> float:
        if not term.requires_grad:
            return 0.0
        gradients = torch.autograd.grad(
            term, self.parameters(), retain_graph=True, allow_unused=True
        )
        norms = [gradient.norm() for gradient in gradients if gradient is not None]
        return float(torch.stack(norms).norm()) if norms else 0.0

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
        """What is trained: the encoder's parameters, then the rest."""
        return self._parameters

    # A parameter is named by its place among all of them, however they are grouped: checkpoints
    # outlive groups.

    def get_moments(self) -> dict[str, Tensor]:
        """The optimizer's state by `<place of the parameter>.<name of the moment>`."""
        return {
            f"{place}.{name}": tensor
            for place, parameter in enumerate(self._parameters)
            for name, tensor in self.optimizer.state.get(parameter, {}).items()
        }

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """Take up the state that `get_moments` gave."""
        places = {id(p): place for place, p in enumerate(self._parameters)}
        grouped = [p for group in self.optimizer.param_groups for p in group["params"]]
        by_place: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for key, tensor in moments.items():
            place, name = key.split(".", 1)
            by_place[int(place)][name] = tensor
        state = {
            index: by_place[places[id(p)]]
            for index, p in enumerate(grouped)
            if places[id(p)] in by_place
        }
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


NamedParameters = list[tuple[str, torch.nn.Parameter]]


def _split_parameters(student: Student) -> tuple[NamedParameters, NamedParameters]:
    """The encoder's trained parameters, and the others."""
    encoder_ids = {id(p) for p in student.encoder_parameters()}
    trained = [(n, p) for n, p in student.model.named_parameters() if p.requires_grad]
    return (
        [(n, p) for n, p in trained if id(p) in encoder_ids],
        [(n, p) for n, p in trained if id(p) not in encoder_ids],
    )


def _make_optimizer(
    encoder: NamedParameters, rest: NamedParameters, hyper: Hyperparameters
) -> torch.optim.Optimizer:
    """AdamW. A group's `share` scales the schedule's rate."""
    encoder_share = (hyper.encoder_learning_rate or hyper.learning_rate) / hyper.learning_rate
    # A decoder-only student has the same parameters for prompt and output.
    shares = [(encoder, encoder_share if rest else 1.0), (rest, 1.0)]
    groups = [
        {**group, "share": share}
        for named, share in shares
        for group in make_decay_groups(named, hyper.weight_decay)
    ]
    return torch.optim.AdamW(groups, lr=hyper.learning_rate)


def _take_next(counts: Iterator[float], _: float) -> float:
    """The next of the whole step's counts, in the place of a part's own."""
    return next(counts)
