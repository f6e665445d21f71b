"""Weight history: the trained weights of the last iterations, which sample negatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from qcrd.method.distributed import sharding
from qcrd.method.prompts import EXPLAIN_PREFIX
from qcrd.method.student.base import Student, Weights
from qcrd.method.training.schedule import TrainingSchedule
from qcrd.records.rationales import Rationale, RationaleSource
from qcrd.records.specs.training_spec import NegativeSource


class WeightHistory:
    """The trained weights of the last `lag` + 1 iterations, by iteration number.

    Frozen parameters are the same in all of them and are not kept. Iterations in `pinned` stay.
    """

    def __init__(self, lag: int, *, pinned: frozenset[int] = frozenset()) -> None:
        self.lag = lag
        self.pinned = pinned
        self.by_iteration: dict[int, Weights] = {}

    def push(self, iteration: int, weights: Weights) -> None:
        self.by_iteration[iteration] = weights
        for old in [
            i for i in self.by_iteration if i < iteration - self.lag and i not in self.pinned
        ]:
            del self.by_iteration[old]

    def get_lagged(self, iteration: int) -> Weights:
        """The weights `lag` iterations before `iteration`, or the oldest if there are none."""
        return self.by_iteration[max(iteration - self.lag, min(self.by_iteration))]


def make_history(
    schedule: TrainingSchedule, *, has_fixed: bool, needs_reference: bool
) -> WeightHistory:
    """The history that a training looks back into: earlier weights are kept only as long as
    negatives are sampled from them. The untrained student stays where it is the reference, or the
    fixed source, which it is unless that has weights of its own."""
    sources = schedule.spec.negatives.source
    looks_back = schedule.objective.uses_negatives and NegativeSource.STUDENT_LAG in sources
    keeps_untrained = needs_reference or (NegativeSource.FIXED in sources and not has_fixed)
    return WeightHistory(
        schedule.spec.negatives.lag if looks_back else 0,
        pinned=frozenset({0} if keeps_untrained else ()),
    )


def copy_trainable_weights(student: Student) -> dict[str, Tensor]:
    """A copy of the weights that training changes, on the CPU; of a sharded student this rank's
    shards."""
    return {
        name: weight.to("cpu", copy=True) for name, weight in get_trainable_weights(student).items()
    }


def get_trainable_weights(student: Student) -> dict[str, Tensor]:
    """The weights that training changes, as they are; of a sharded student this rank's shards."""
    return {
        name: parameter.detach()
        for name, parameter in student.model.named_parameters()
        if parameter.requires_grad
    }


def load_weights(student: Student, weights: Weights) -> None:
    """Give the student `weights`, which may be shards: of a sharded student they stay it, for a
    whole one all ranks gather them."""
    is_sharded = any(isinstance(p, DTensor) for p in student.model.parameters())
    if not is_sharded:
        weights = sharding.gather_whole(weights, student.device)
    parameters = dict(student.model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(weight.to(parameters[name].device))


@contextmanager
def weights_of(student: Student, weights: Weights) -> Iterator[Student]:
    """The student with `weights` for a while, and then with its own again, bit for bit."""
    own = copy_trainable_weights(student)
    load_weights(student, weights)
    try:
        yield student
    finally:
        load_weights(student, own)


def sample_rationales(
    sampler: Student,
    questions: Sequence[tuple[str, str]],
    *,
    n: int,
    temperature: float,
    top_p: float = 1.0,
    max_new_tokens: int,
    seed: int,
    tag: str,
    source: RationaleSource = RationaleSource.STUDENT,
    check: Callable[[], None] = lambda: None,
) -> dict[str, tuple[Rationale, ...]]:
    """`n` explanations per (id, text) by `sampler`, keyed by question id. Blank ones are dropped.

    `tag` makes the rationales' ids differ from those of another round. `check` runs between
    batches; what it raises ends the sampling.
    """
    prompts = [(key, text) for key, text in questions for _ in range(n)]
    outputs = sampler.sample(
        [EXPLAIN_PREFIX + text for _, text in prompts],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        check=check,
    )
    rationales: dict[str, tuple[Rationale, ...]] = {key: () for key, _ in questions}
    for index, ((key, _), output) in enumerate(zip(prompts, outputs, strict=True)):
        if output.text:
            rationale = Rationale(
                id=f"{key}/{tag}/{index % n}",
                question_id=key,
                text=output.text,
                source=source,
                is_cut=output.is_cut,
                entropy=output.entropy,
            )
            rationales[key] = (*rationales[key], rationale)
    return rationales
