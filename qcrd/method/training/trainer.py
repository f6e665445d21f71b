"""The iteration schedule: sample negatives from the past, update the judge, train, validate.

A `Trainer` is a generator of records; its caller does the I/O, and stops it by not asking further.
Everything random is a function of (seed, iteration, step), so a trainer restored between any two
steps goes on exactly as it would have.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from qcrd.errors import Diverged
from qcrd.method.batching import iteration_batches
from qcrd.method.judge.model import JudgeBackend
from qcrd.method.judge.training_pairs import TrainingPair, make_training_pair
from qcrd.method.losses import loss_lower_bound
from qcrd.method.student.base import Student, Weights
from qcrd.method.training import weight_history
from qcrd.method.training.distributed import Crew
from qcrd.method.training.negative_sampler import LocalPast, Order, Past, Samples, Wanted
from qcrd.method.training.optimizer_step import Update
from qcrd.method.training.progress import Phase, Pretrained, Round, Step
from qcrd.method.training.schedule import Plan
from qcrd.method.training.step_loss import Lesson
from qcrd.method.training.weight_history import Ring, trainable
from qcrd.records.job import JudgeHistograms
from qcrd.records.rationales import Rationale, RationaleSource
from qcrd.records.spec import NegativeSource

EXPLODED = 1e4
"""A gradient's norm that no training comes back from, clipped or not."""

Score = tuple[float, float]
"""(validation accuracy, minus the label's mean cross entropy): higher is better, in this order."""


@dataclass(frozen=True)
class Prepared:
    """What an iteration is trained with: the student's earlier samples by question, the judge's
    score of every rationale by its id, and the judge's health."""

    sampled: Samples = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    health: dict[str, float] = field(default_factory=dict)
    histograms: JudgeHistograms | None = None


@dataclass(frozen=True)
class Best:
    """The iteration that did best on validation so far."""

    score: Score
    iteration: int
    weights: Weights


class Trainer:
    """Trains `student` by `plan`; `validate` measures it, `judge` scores if the plan asks.

    `past` samples the negatives, by default in this process; `fixed` are the weights of the
    negative source of that name; `crew` are the processes that share the steps, None this one.
    """

    def __init__(
        self,
        student: Student,
        lessons: Sequence[Lesson],
        plan: Plan,
        validate: Callable[[Student], Score],
        judge: JudgeBackend | None = None,
        past: Past | None = None,
        fixed: Weights | None = None,
        crew: Crew | None = None,
    ) -> None:
        self.student = student
        self.lessons = lessons
        self.plan = plan
        self.validate = validate
        self.judge = judge if plan.objective.judged else None
        self.past = past or LocalPast(student)
        self.update = Update(student, plan)
        self.crew = crew
        self._crewed = False
        self.fixed = fixed
        # Where no checkpoint is given the fixed source is the student before it was trained.
        pinned = NegativeSource.FIXED in plan.spec.negatives.source and fixed is None
        # Who samples no negatives looks back at nothing.
        lag = plan.spec.negatives.lag if plan.objective.negatives else 0
        self.ring = Ring(lag, pinned=frozenset({0} if pinned else ()))
        self.begun = False
        self.iteration = 0
        self.step = 0
        self.cursor = 0
        """Steps done of the iteration under way."""
        self.prepared: Prepared | None = None
        self.sampled: Samples = {}
        """The negatives of the last iteration that ended here; none after a resumption."""
        self.best: Best | None = None
        self.pretrained: dict[str, float] = {}

    @property
    def flops(self) -> float:
        """Floating-point operations so far: student, its past self and the judge."""
        judging = 0.0 if self.judge is None else self.judge.flops
        return self.student.flops + self.past.flops + judging

    @property
    def judge_version(self) -> int:
        """Of the judge that goes on from here: 0 untrained, 1 pretrained, t + 2 by iteration t."""
        return self.iteration + 1 + (self.prepared is not None)

    def run(self) -> Iterator[Phase | Pretrained | Step | Round]:
        if not self.begun:
            self.ring.push(0, trainable(self.student))
            if self.judge is not None:
                yield Phase("pretraining the judge")
                found = self.judge.pretrain(self._contrasts(self.lessons))
                self.pretrained = {f"pretrained_{name}": value for name, value in found.items()}
                self.begun = True
                yield Pretrained(found, self.judge.histograms)
            self.begun = True
        # An iteration that was prepared is closed, also where its last step was the plan's last.
        while self.prepared is not None or not self._finished():
            if self.prepared is None:
                if self.plan.objective.negatives:
                    yield Phase(f"negatives for iteration {self.iteration + 1}")
                self.prepared = self._prepare()
            yield from self._iterate(self.prepared)
            yield self._close(self.prepared)

    def restore_best(self) -> None:
        """Give the student the weights that were best on validation."""
        if self.best is not None:
            weight_history.load(self.student, self.best.weights)

    def _finished(self) -> bool:
        return self.plan.done(self.step, self.flops) >= 1

    # --- one iteration -------------------------------------------------------------------------

    def _prepare(self) -> Prepared:
        """Fresh negatives, an updated judge and fresh scores for this iteration."""
        if not self.plan.objective.negatives:
            return Prepared()
        fresh = self._sample()
        if self.judge is None:
            return Prepared(fresh)
        taught = self._taught(fresh)
        alpha3 = self.plan.spec.loss.alpha[2] * self.plan.spec.loss.alpha3_decay**self.iteration
        health = self.judge.update(self.iteration, self._contrasts(taught), weight=alpha3)
        return Prepared(fresh, self._scored(taught), health, self.judge.histograms)

    def _taught(self, sampled: Samples) -> Sequence[Lesson]:
        if not self.plan.objective.negatives:
            return self.lessons
        return [replace(item, negatives=self._negatives(item, sampled)) for item in self.lessons]

    def _iterate(self, prepared: Prepared) -> Iterator[Step]:
        self._sample_ahead()
        batches = iteration_batches(
            self._taught(prepared.sampled),
            batch_size=self.plan.spec.hyperparameters.batch_size,
            steps=self.plan.iteration_steps,
            seed=self.plan.seed,
            iteration=self.iteration,
        )
        for batch in itertools.islice(batches, self.cursor, None):
            if self._finished():
                return
            yield self._optimize(batch, prepared.scores)

    def _close(self, prepared: Prepared) -> Round:
        self.iteration += 1
        self.cursor, self.prepared, self.sampled = 0, None, prepared.sampled
        self.ring.push(self.iteration, trainable(self.student))
        spent = self.student.flops
        score = self.validate(self.student)
        self.student.flops = spent  # measuring is no part of a method's compute
        better = self.best is None or score > self.best.score
        if better:
            self.best = Best(score, self.iteration, self.ring.held[self.iteration])
        return Round(
            self.iteration, score[0], better, prepared.health, self.flops, prepared.histograms
        )

    def _optimize(self, batch: Sequence[Lesson], scores: dict[str, float]) -> Step:
        seed = random.Random(f"{self.plan.seed}/step/{self.step}").getrandbits(62)
        parts = self._backward(batch, scores, seed)
        norm = self.update.clip()
        if not norm < EXPLODED:  # nor is NaN
            raise Diverged(self._advice("the gradient's norm", norm))
        rate = self.plan.rate(self.step, self.flops)
        if self.crew is None:
            self.update.apply(rate)
        else:
            self.crew.apply(self.update, rate)
        self.step += 1
        self.cursor += 1
        done = self.plan.done(self.step, self.flops)
        return Step(self.step, done, self.iteration, parts, norm, rate)

    def _backward(
        self, batch: Sequence[Lesson], scores: dict[str, float], seed: int
    ) -> dict[str, float]:
        """Gradients of the whole batch, from this process or from all of the crew."""
        if self.crew is not None:
            if not self._crewed:
                self.crew.begin(self.update)
                self._crewed = True
            parts = self.crew.backward(self.update, batch, scores, seed)
            self._check(parts)
            return parts
        terms = self.update.gradients(batch, scores, seed)
        self._check(terms.parts)
        terms.total.backward()
        return terms.parts

    # --- negatives and scores ------------------------------------------------------------------

    def _sample(self) -> Samples:
        orders = self._orders(self.iteration)
        return self.past.sample(orders) if orders else {}

    def _sample_ahead(self) -> None:
        """The next iteration's negatives: with a lag of at least 1 its past is known by now."""
        ahead = self.iteration + 1
        last = self.plan.flops is None and ahead * self.plan.iteration_steps >= self.plan.steps
        if not last and (orders := self._orders(ahead)):
            self.past.begin(orders)

    def _orders(self, iteration: int) -> list[Order]:
        """What the student's earlier selves are asked for `iteration`: by lag, then the fixed."""
        spec = self.plan.spec.negatives
        if not self.plan.objective.negatives:
            return []
        orders: list[Order] = []
        if NegativeSource.STUDENT_LAG in spec.source:
            orders.append(
                (self.ring.lagged(iteration), self._wanted(iteration, RationaleSource.STUDENT))
            )
        if NegativeSource.FIXED in spec.source:
            weights = self.ring.held[0] if self.fixed is None else self.fixed
            orders.append((weights, self._wanted(iteration, RationaleSource.FIXED)))
        return orders

    def _wanted(self, iteration: int, source: RationaleSource) -> Wanted:
        spec = self.plan.spec.negatives
        salt = f"{self.plan.seed}/sample/{source.value}/{iteration}"
        return Wanted(
            questions=tuple((x.id, x.text) for x in self.lessons if x.positives),
            n=spec.n,
            temperature=spec.temperature,
            max_new_tokens=self.plan.spec.hyperparameters.max_rationale_tokens,
            seed=random.Random(salt).getrandbits(31),
            tag=f"{source.value[0]}{iteration}",
            source=source,
        )

    def _negatives(self, lesson: Lesson, fresh: Samples) -> tuple[Rationale, ...]:
        """By the spec's sources. A sample equal to a positive is right, and so no negative."""
        minority = NegativeSource.TEACHER_MINORITY in self.plan.spec.negatives.source
        right = {rationale.text for rationale in lesson.positives}
        sampled = tuple(r for r in fresh.get(lesson.id, ()) if r.text not in right)
        return (lesson.negatives if minority else ()) + sampled

    def _contrasts(self, lessons: Sequence[Lesson]) -> list[TrainingPair]:
        return [make_training_pair(x.text, x.positives, x.negatives) for x in lessons]

    def _scored(self, lessons: Sequence[Lesson]) -> dict[str, float]:
        """One score per rationale and judge version; no step asks the judge again."""
        assert self.judge is not None
        asked = [(lesson, r) for lesson in lessons for r in (*lesson.positives, *lesson.negatives)]
        scores = self.judge.score([(lesson.text, r.text) for lesson, r in asked])
        return {r.id: score for (_, r), score in zip(asked, scores, strict=True)}

    # --- divergence ----------------------------------------------------------------------------

    def _check(self, parts: dict[str, float]) -> None:
        for name, value in parts.items():
            if not math.isfinite(value):
                raise Diverged(self._advice(f"the term `{name}`", value))
        spec, loss = self.plan.spec.loss, parts["loss"]
        if loss < loss_lower_bound(spec.alpha[1], spec.beta, spec.delta):
            raise Diverged(self._advice("the loss", loss))

    def _advice(self, what: str, value: float) -> str:
        return (
            f"step {self.step + 1} of {self.plan.method}: {what} is {value}; lower "
            "`hyperparameters.learning_rate` or `loss.beta`, or add `hyperparameters.warmup_steps`"
        )
