"""One optimizer step of a student: gradients of its share of a batch, then the step itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from qcrd.method.distributed import sharding
from qcrd.method.distributed.gradients import sum_gradients
from qcrd.method.distributed.ranks import split_by_size
from qcrd.method.student.base import Student
from qcrd.method.training.schedule import TrainingSchedule
from qcrd.method.training.step_counts import StepCounts, count_step
from qcrd.method.training.step_loss import JudgeScores, StepLoss, StepModule
from qcrd.method.training.training_example import TrainingExample
from qcrd.method.weight_decay import make_decay_groups
from qcrd.records.specs.training_spec import Hyperparameters

MAX_RANKS = 1024
"""Ranks have seeds beside each other; the parts of a rank's step are further apart."""


class OptimizerStep:
    """A student with its optimizer and the settings of its steps; each rank computes its share of a
    step. With a `mesh` the student is sharded over it, and called one way from then on; several
    ranks without one hold the whole student each."""

    def __init__(
        self, student: Student, schedule: TrainingSchedule, mesh: DeviceMesh | None = None
    ) -> None:
        self.student = student
        self.ranks = student.ranks
        self.module = StepModule(student, schedule.objective, schedule.spec.loss)
        self._adds_up = mesh is None and student.ranks.size > 1
        if mesh is not None:
            student.one_call = True
            sharding.shard_module(self.module, mesh, bf16=student.bf16)
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
        counts: StepCounts | None = None,
        luck: int | None = None,
    ) -> StepLoss:
        """The loss of `batch`, dropout a function of `seed`, and so is `luck` unless it is given;
        gradients are left alone.

        Where `batch` is a share of a step's, `counts` and `luck` are the whole step's.
        """
        torch.manual_seed(seed)
        self.student.model.train()
        luck = seed if luck is None else luck
        loss: StepLoss = self.module(batch, scores, luck, counts)
        return loss

    def backward(
        self, batch: Sequence[TrainingExample], scores: JudgeScores, seed: int
    ) -> dict[str, float]:
        """The gradients of `batch`, from all ranks, and the terms of its loss.

        In several parts, of ranks or one after the other, they are the same sums, in less memory;
        dropout differs.
        """
        flops, tokens = self.student.flops, self.student.tokens
        losses = self._accumulate(batch, scores, seed, lambda loss: loss.total)
        names = sorted(losses)
        costs = [self.student.flops - flops, self.student.tokens - tokens]
        *sums, all_flops, all_tokens = self.ranks.sum([*(losses[n] for n in names), *costs])
        self.student.flops, self.student.tokens = flops + all_flops, tokens + all_tokens
        return dict(zip(names, sums, strict=True))

    def measure_terms(
        self, batch: Sequence[TrainingExample], scores: JudgeScores, seed: int
    ) -> dict[str, float]:
        """Norms of the gradients of the contrast's two terms, as they enter the loss; none where no
        negative is in force. No part of a method's compute."""
        norms: dict[str, float] = {}
        with self.student.uncounted():
            for name in ("negative", "positive"):
                losses = self._accumulate(batch, scores, seed, attrgetter(name))
                (in_force,) = self.ranks.sum([losses.get("negative", 0.0)])
                if not in_force:
                    return {}
                norms[f"{name}_gradient"] = self._gradient_norm()
        return norms

    def _accumulate(
        self,
        batch: Sequence[TrainingExample],
        scores: JudgeScores,
        seed: int,
        get_term: Callable[[StepLoss], Tensor | None],
    ) -> Counter[str]:
        """The gradients of a term of the loss, and this rank's share of all terms."""
        self.optimizer.zero_grad(set_to_none=True)
        counts = count_step(self.student, batch, self.module.objective, self.module.spec)
        losses: Counter[str] = Counter()
        for number, part in enumerate(self.split(batch)):
            part_seed = seed + self.ranks.rank + MAX_RANKS * number
            loss = self.compute_loss(part, scores, part_seed, counts, luck=seed)
            term = get_term(loss)
            if term is not None and term.requires_grad:
                term.backward()
            losses.update(loss.losses)
        if self._adds_up:
            sum_gradients(self.parameters())
        return losses

    def split(self, batch: Sequence[TrainingExample]) -> list[list[TrainingExample]]:
        """This rank's parts of `batch`, of nearly equal work; every rank has as many, and some may
        be empty."""
        parts = split_by_size(
            [_estimate_size(example) for example in batch], self.ranks.size * self.micro_batches
        )
        return [[batch[i] for i in part] for part in self.ranks.select_own(parts)]

    def _gradient_norm(self) -> float:
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        return float(sharding.to_plain(torch.nn.utils.get_total_norm(gradients)))

    def clip_gradients(self) -> float:
        """The gradient's norm before it is clipped to the plan's."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.clip_norm)
        return float(sharding.to_plain(norm))

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
    # One kernel for all parameters, where there is one.
    is_on_gpu = any(p.is_cuda for _, p in (*encoder, *rest))
    return torch.optim.AdamW(groups, lr=hyper.learning_rate, fused=is_on_gpu or None)


def _estimate_size(example: TrainingExample) -> int:
    """Characters that a step reads of it."""
    rationales = (*example.positives, *example.negatives)
    return 2 * len(example.text) + sum(len(rationale.text) for rationale in rationales)
