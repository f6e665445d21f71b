"""The iteration schedule: sample negatives from the past, update the judge, train, validate.

A `Trainer` is a generator of records; its caller does the I/O, and stops it by not asking further.
Everything random is a function of (seed, iteration, step), so a trainer restored at an iteration's
start goes on exactly as it would have.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from qcrd.errors import Diverged
from qcrd.method import negatives
from qcrd.method.batching import iteration_batches
from qcrd.method.judge import Contrast, Pair
from qcrd.method.losses import lower_bound
from qcrd.method.negatives import Ring, Weights, trainable
from qcrd.method.schedule import Plan
from qcrd.method.steps import Lesson, step_terms
from qcrd.method.students import Student
from qcrd.records import Hyperparameters, NegativeSource, Rationale


class JudgePort(Protocol):
    """The judge as training sees it: in this process, or a service."""

    flops: float

    def pretrain(self, contrasts: Sequence[Contrast]) -> dict[str, float]: ...
    def update(
        self, iteration: int, contrasts: Sequence[Contrast], *, weight: float
    ) -> dict[str, float]: ...
    def score(self, pairs: Sequence[Pair]) -> list[float]: ...


@dataclass(frozen=True)
class Step:
    """One optimizer step: its number from 1, the share of the plan done after it, its loss terms,
    the gradient's norm before clipping and the learning rate."""

    number: int
    done: float
    iteration: int
    parts: dict[str, float]
    norm: float
    rate: float


@dataclass(frozen=True)
class Round:
    """One finished iteration. `better`: its weights are the best on validation so far."""

    iteration: int
    validation: float
    better: bool
    judge: dict[str, float] = field(default_factory=dict)
    flops: float = 0.0


@dataclass(frozen=True)
class Phase:
    """What the trainer does next where it takes a while and makes no step."""

    name: str


Score = tuple[float, float]
"""(validation accuracy, minus the label's mean cross entropy): higher is better, in this order."""


@dataclass(frozen=True)
class Best:
    """The iteration that did best on validation so far."""

    score: Score
    iteration: int
    weights: Weights


class Trainer:
    """Trains `student` by `plan`; `validate` measures it, `judge` scores if the plan asks."""

    def __init__(
        self,
        student: Student,
        lessons: Sequence[Lesson],
        plan: Plan,
        validate: Callable[[Student], Score],
        judge: JudgePort | None = None,
    ) -> None:
        self.student = student
        self.lessons = lessons
        self.plan = plan
        self.validate = validate
        self.judge = judge if plan.objective.judged else None
        self.optimizer = _optimizer(student, plan.spec.hyperparameters)
        # The fixed source is iteration 0: the student before it was trained.
        fixed = NegativeSource.FIXED in plan.spec.negatives.source
        # Who samples no negatives looks back at nothing.
        lag = plan.spec.negatives.lag if plan.objective.negatives else 0
        self.ring = Ring(lag, pinned=frozenset({0} if fixed else ()))
        self.iteration = 0
        self.step = 0
        self.best: Best | None = None
        self.sampler: Student | None = None
        self.pretrained: dict[str, float] = {}
        self._scores: dict[str, float] = {}

    @property
    def flops(self) -> float:
        """Floating-point operations so far: student, sampler and judge."""
        parts = (self.student, self.sampler, self.judge)
        return sum(part.flops for part in parts if part is not None)

    def run(self) -> Iterator[Phase | Step | Round]:
        if self.iteration == 0:
            self.ring.push(0, trainable(self.student))
            if self.judge is not None:
                yield Phase("pretraining the judge")
                found = self.judge.pretrain([_contrast(lesson) for lesson in self.lessons])
                self.pretrained = {f"pretrained_{name}": value for name, value in found.items()}
        while not self._finished():
            if self.plan.objective.negatives:
                yield Phase(f"negatives for iteration {self.iteration + 1}")
            taught, health = self._prepare()
            yield from self._iterate(taught)
            yield self._close(health)

    def restore_best(self) -> None:
        """Give the student the weights that were best on validation."""
        if self.best is not None:
            negatives.load(self.student, self.best.weights)

    def _finished(self) -> bool:
        return self.plan.done(self.step, self.flops) >= 1

    # --- one iteration -------------------------------------------------------------------------

    def _prepare(self) -> tuple[list[Lesson], dict[str, float]]:
        """Fresh negatives, an updated judge and fresh scores for this iteration."""
        if not self.plan.objective.negatives:
            return list(self.lessons), {}
        fresh = self._sample()
        taught = [replace(item, negatives=self._negatives(item, fresh)) for item in self.lessons]
        if self.judge is None:
            return taught, {}
        alpha3 = self.plan.spec.loss.alpha[2] * self.plan.spec.loss.alpha3_decay**self.iteration
        contrasts = [_contrast(lesson) for lesson in taught]
        health = self.judge.update(self.iteration, contrasts, weight=alpha3)
        self._scores = self._scored(taught)
        return taught, health

    def _iterate(self, taught: Sequence[Lesson]) -> Iterator[Step]:
        batches = iteration_batches(
            taught,
            batch_size=self.plan.spec.hyperparameters.batch_size,
            steps=self.plan.iteration_steps,
            seed=self.plan.seed,
            iteration=self.iteration,
        )
        for batch in batches:
            yield self._optimize(batch)
            if self._finished():
                return

    def _close(self, health: dict[str, float]) -> Round:
        self.iteration += 1
        self.ring.push(self.iteration, trainable(self.student))
        spent = self.student.flops
        score = self.validate(self.student)
        self.student.flops = spent  # measuring is no part of a method's compute
        better = self.best is None or score > self.best.score
        if better:
            self.best = Best(score, self.iteration, self.ring.held[self.iteration])
        return Round(self.iteration, score[0], better, health, self.flops)

    def _optimize(self, batch: Sequence[Lesson]) -> Step:
        seed = random.Random(f"{self.plan.seed}/step/{self.step}").getrandbits(62)
        torch.manual_seed(seed)
        spec = self.plan.spec
        self.student.model.train()
        terms = step_terms(
            self.student,
            batch,
            self.plan.objective,
            spec.loss,
            self._scores,
            torch.Generator().manual_seed(seed),
        )
        self._check(terms.total)
        self.optimizer.zero_grad(set_to_none=True)
        terms.total.backward()  # type: ignore[no-untyped-call]
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, spec.hyperparameters.clip_norm)
        if not torch.isfinite(norm):
            raise Diverged(self._advice("the gradient's norm", float(norm)))
        rate = self.plan.rate(self.step, self.flops)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.step()
        self.step += 1
        done = self.plan.done(self.step, self.flops)
        return Step(self.step, done, self.iteration, terms.parts, float(norm), rate)

    # --- negatives and scores ------------------------------------------------------------------

    def _sample(self) -> dict[str, tuple[Rationale, ...]]:
        spec = self.plan.spec.negatives
        if set(spec.source) <= {NegativeSource.TEACHER_MINORITY}:
            return {}
        sampler = self.past_self()
        lagged = NegativeSource.STUDENT_LAG in spec.source
        weights = (
            self.ring.lagged(self.iteration) if lagged else self.ring.held[min(self.ring.held)]
        )
        negatives.load(sampler, weights)
        return negatives.sample(
            sampler,
            [(lesson.id, lesson.text) for lesson in self.lessons if lesson.positives],
            n=spec.n,
            temperature=spec.temperature,
            max_new_tokens=self.plan.spec.hyperparameters.max_rationale_tokens,
            seed=random.Random(f"{self.plan.seed}/sample/{self.iteration}").getrandbits(31),
            tag=f"s{self.iteration}",
        )

    def past_self(self) -> Student:
        """A second student for the past's weights, so that sampling never disturbs training."""
        if self.sampler is None:
            self.sampler = copy.copy(self.student)
            self.sampler.model = copy.deepcopy(self.student.model)
            self.sampler.flops = 0.0
        return self.sampler

    def _negatives(
        self, lesson: Lesson, fresh: dict[str, tuple[Rationale, ...]]
    ) -> tuple[Rationale, ...]:
        """By the spec's sources. A sample equal to a positive is right, and so no negative."""
        minority = NegativeSource.TEACHER_MINORITY in self.plan.spec.negatives.source
        right = {rationale.text for rationale in lesson.positives}
        sampled = tuple(r for r in fresh.get(lesson.id, ()) if r.text not in right)
        return (lesson.negatives if minority else ()) + sampled

    def _scored(self, lessons: Sequence[Lesson]) -> dict[str, float]:
        """One score per rationale and judge version; no step asks the judge again."""
        assert self.judge is not None
        asked = [(lesson, r) for lesson in lessons for r in (*lesson.positives, *lesson.negatives)]
        scores = self.judge.score([(lesson.text, r.text) for lesson, r in asked])
        return {r.id: score for (_, r), score in zip(asked, scores, strict=True)}

    # --- divergence ----------------------------------------------------------------------------

    def _check(self, loss: Tensor) -> None:
        spec = self.plan.spec.loss
        floor = lower_bound(spec.alpha[1], spec.beta, spec.delta)
        if not math.isfinite(loss.item()) or loss.item() < floor:
            raise Diverged(self._advice("the loss", loss.item()))

    def _advice(self, what: str, value: float) -> str:
        return (
            f"step {self.step + 1} of {self.plan.method}: {what} is {value}; lower "
            "`hyperparameters.learning_rate` or `loss.beta`, or add `hyperparameters.warmup_steps`"
        )


def _optimizer(student: Student, hyper: Hyperparameters) -> torch.optim.Optimizer:
    """AdamW over what is not frozen. A group's `share` scales the schedule's rate."""
    readers = {id(p) for p in student.readers()}
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


def _contrast(lesson: Lesson) -> Contrast:
    return Contrast(
        lesson.text,
        tuple(rationale.text for rationale in lesson.positives),
        tuple(rationale.text for rationale in lesson.negatives),
    )
