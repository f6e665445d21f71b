"""Negatives of an iteration: what is asked of the student's earlier selves, what is used, and how
much of it acts."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from qcrd.method import losses
from qcrd.method.packed_rationales import PackedRationales
from qcrd.method.student.base import Student, Weights
from qcrd.method.training.negatives.controls import take_from_other_questions
from qcrd.method.training.negatives.metrics import describe_samples, score_pairs
from qcrd.method.training.negatives.sample_filter import (
    SampledRationales,
    SampleFilter,
)
from qcrd.method.training.negatives.sampler import (
    NegativeSampler,
    NegativeSampleRequest,
    NegativeSamplingParams,
)
from qcrd.method.training.schedule import TrainingSchedule
from qcrd.method.training.training_example import TrainingExample
from qcrd.method.training.weight_history import WeightHistory
from qcrd.records.rationales import Rationale, RationaleSource
from qcrd.records.specs.training_spec import NegativeSource

TEMPERATURES = (1.5, 1.2, 1.0, 0.85, 0.7, 0.5)
"""What `negatives.temperature: auto` chooses from, the highest first."""
MIN_SHARE_IN_FORCE = 0.5
"""Of the usable samples, at the temperature that is chosen."""
MIN_USABLE_SHARE = 0.25
"""Of the samples that are not right, at a temperature that is taken: at τ = 1.5 a SmolLM2 that was
not trained breaks off 95 in 100 (docs/results/2026-11-29-in-force.md)."""
TEMPERATURE_ITERATIONS = 5
"""Iterations between two measurements of the temperature."""
PROBED_QUESTIONS = 128
"""Questions on which a temperature, or the share of samples in force, is measured."""


@dataclass(frozen=True)
class IterationNegatives:
    """The negatives of an iteration by question, the temperature that they were sampled at, and
    what was measured of them."""

    samples: SampledRationales = field(default_factory=dict)
    temperature: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class NegativeSupply:
    """Samples each iteration's negatives for one training. `get_student` gives the student as it
    is, to measure them; `temperature` is the last one chosen."""

    def __init__(
        self,
        get_student: Callable[[], Student],
        schedule: TrainingSchedule,
        examples: Sequence[TrainingExample],
        sampler: NegativeSampler,
        weight_history: WeightHistory,
        fixed_weights: Weights | None,
    ) -> None:
        self.sampler = sampler
        self.temperature: float | None = None
        self._get_student = get_student
        self._schedule = schedule
        self._spec = schedule.spec.negatives
        self._weight_history = weight_history
        self._fixed_weights = fixed_weights
        self._filter = SampleFilter(schedule.spec, examples, reasons=schedule.objective.reasons)
        self._samples_any = schedule.objective.uses_negatives and bool(
            {NegativeSource.STUDENT_LAG, NegativeSource.FIXED} & set(self._spec.source)
        )

    @property
    def drops_all_samples(self) -> bool:
        """Whether the filter is bound to drop whatever is sampled: it goes by answers, in which the
        positives do not end."""
        return self._samples_any and self._filter.drops_all

    def prepare(self, iteration: int, examples: Sequence[TrainingExample]) -> IterationNegatives:
        """Negatives for the `examples` of `iteration`."""
        if not self._schedule.objective.uses_negatives:
            return IterationNegatives()
        metrics: dict[str, float] = {}
        if self._is_measured_in(iteration):
            self.temperature = self._choose_temperature(iteration, examples, metrics)
        requests = self.make_requests(iteration, examples)
        sampled = self.sampler.sample(requests) if requests else {}
        filtered = self._filter.apply(examples, sampled)
        n_asked = sum(len(params.questions) * params.n for _, params in requests)
        metrics |= describe_samples(sampled, filtered.counts, n_asked)
        kept = filtered.kept
        if self._spec.control == "other_question":
            salt = f"{self._schedule.seed}/other-question/{iteration}"
            kept = take_from_other_questions(examples, kept, self._score_for_control, salt)
        metrics |= self._measure(self.attach(examples, kept))
        return IterationNegatives(kept, self.temperature, metrics)

    def prefetch(self, iteration: int, examples: Sequence[TrainingExample]) -> None:
        """Announce an iteration's samples, unless its temperature is yet to be measured."""
        if self._is_measured_in(iteration):
            return
        if requests := self.make_requests(iteration, examples):
            self.sampler.prefetch(requests)

    def attach(
        self, examples: Sequence[TrainingExample], samples: SampledRationales
    ) -> Sequence[TrainingExample]:
        """The examples with the negatives of the spec's sources, where the method uses any, and
        with the positives among the samples that were kept."""
        if not self._schedule.objective.uses_negatives:
            return examples
        keeps_own = NegativeSource.TEACHER_MINORITY in self._spec.source
        is_taught = self._schedule.spec.positives.source == "teacher"
        attached = []
        for example in examples:
            right, wrong = self.split(example, samples)
            own = self._filter.keep_own(example) if keeps_own else ()
            taught = example.positives if is_taught else ()
            if right:
                taught = PackedRationales((*taught, *right))
            negatives = PackedRationales((*own, *wrong))
            attached.append(replace(example, positives=taught, negatives=negatives))
        return attached

    def split(
        self, example: TrainingExample, samples: SampledRationales
    ) -> tuple[tuple[Rationale, ...], tuple[Rationale, ...]]:
        """The positives and the negatives among a question's samples that were kept."""
        return self._filter.split(example, samples.get(example.id, ()))

    def make_requests(
        self, iteration: int, examples: Sequence[TrainingExample]
    ) -> list[NegativeSampleRequest]:
        """By lag, then the fixed; without given weights that is the student before training."""
        if not self._samples_any:
            return []
        temperature = self.temperature or self._spec.temperature
        assert temperature != "auto", "it is measured before the first iteration"
        requests: list[NegativeSampleRequest] = []
        if NegativeSource.STUDENT_LAG in self._spec.source:
            weights = self._weight_history.get_lagged(iteration)
            requests.append((weights, self._make_params(iteration, examples, temperature, STUDENT)))
        if NegativeSource.FIXED in self._spec.source:
            weights = self._fixed_weights or self._weight_history.by_iteration[0]
            requests.append((weights, self._make_params(iteration, examples, temperature, FIXED)))
        return requests

    def _make_params(
        self,
        iteration: int,
        examples: Sequence[TrainingExample],
        temperature: float,
        source: RationaleSource,
    ) -> NegativeSamplingParams:
        salt = f"{self._schedule.seed}/sample/{source.value}/{iteration}"
        return NegativeSamplingParams(
            questions=tuple((x.id, x.text) for x in examples),
            n=self._spec.n,
            temperature=temperature,
            top_p=self._spec.top_p,
            max_new_tokens=self._count_new_tokens(),
            seed=random.Random(salt).getrandbits(31),
            tag=f"{source.value[0]}{iteration}",
            source=source,
        )

    def _count_new_tokens(self) -> int:
        """Longest sample: a rationale, and the answer where one follows it."""
        hyper, reasons = self._schedule.spec.hyperparameters, self._schedule.objective.reasons
        return hyper.max_rationale_tokens + hyper.max_label_tokens * reasons

    def _score_for_control(self, pairs: Sequence[tuple[TrainingExample, Rationale]]) -> list[float]:
        """A part of the method's compute: of a control's, but it costs what it costs."""
        scored, work = self._score(pairs)
        self.sampler.flops += work
        return [ce for ce, _ in scored]

    # --- the temperature --------------------------------------------------------------------------

    def _is_measured_in(self, iteration: int) -> bool:
        is_due = self.temperature is None or iteration % TEMPERATURE_ITERATIONS == 0
        return self._spec.temperature == "auto" and self._samples_any and is_due

    def _choose_temperature(
        self, iteration: int, examples: Sequence[TrainingExample], metrics: dict[str, float]
    ) -> float:
        """The highest temperature with enough usable samples in force; the lowest where none has.
        Where hardly any sample is usable, a few that are in force say nothing. Their share, and how
        many were usable at any, go into `metrics`. Its cost counts as the sampling's."""
        probed = _draw(examples, f"{self._schedule.seed}/temperature/{iteration}")
        share, n_usable = 0.0, 0
        for temperature in TEMPERATURES:
            self.temperature = temperature
            sampled = self.sampler.sample(self.make_requests(iteration, probed))
            filtered = self._filter.apply(probed, sampled)
            negatives = [(e, s) for e in probed for s in self.split(e, filtered.kept)[1]]
            usable = [(e, s) for e, s in negatives if self._filter.is_usable(s)]
            scored, work = self._score(usable)
            self.sampler.flops += work
            n_usable += len(usable)
            in_force = [ce < margin for ce, margin in scored]
            is_enough = len(usable) >= MIN_USABLE_SHARE * filtered.count_not_right()
            share = statistics.fmean(in_force) if in_force and is_enough else 0.0
            if share >= MIN_SHARE_IN_FORCE:
                break
        metrics |= {"temperature_share": share, "temperature_usable": float(n_usable)}
        return temperature

    # --- what is told of an iteration's negatives -------------------------------------------------

    def _measure(self, examples: Sequence[TrainingExample]) -> dict[str, float]:
        """Of the negatives, whatever their source: the share of the questions in which the one that
        eq. 7 picks is in force, and the quartiles of their cross entropy under the student as it is
        now. Not a part of the method's compute."""
        with_any = [example for example in examples if example.negatives]
        probed = _draw(with_any, f"{self._schedule.seed}/in-force")
        scored, _ = self._score([(e, s) for e in probed for s in e.negatives])
        by_question = iter(scored)
        shares = [
            self._share_in_force(list(itertools.islice(by_question, len(example.negatives))))
            for example in probed
        ]
        metrics = {
            "negatives": float(sum(len(e.negatives) for e in with_any)),
            "teacher_negatives": float(
                sum(r.source is RationaleSource.TEACHER for e in with_any for r in e.negatives)
            ),
            "in_force_share": math.fsum(shares) / max(1, len(shares)),
        }
        temperature = self.temperature or self._spec.temperature
        if self._samples_any and isinstance(temperature, float):
            metrics["temperature"] = temperature
        if len(scored) > 1:
            quartiles = statistics.quantiles([ce for ce, _ in scored], n=4, method="inclusive")
            metrics |= zip(("ce_q1", "ce_median", "ce_q3"), quartiles, strict=True)
        return metrics

    def _share_in_force(self, scored: Sequence[tuple[float, float]]) -> float:
        """Of one question's negatives, weighed as the loss does where the judge has no say: 1 or 0
        where one of them is picked by its loss."""
        ce, margins = torch.tensor(scored).T.unsqueeze(1)
        _, weigh = losses.SCHEMES[self._schedule.spec.loss.scheme]
        if weigh is losses.weight_sampled:  # each of them is picked as often
            weigh = losses.weight_uniform
        ones = torch.ones_like(ce)
        weights = weigh(ce, ones.bool(), ones, ones)
        return float((weights * (ce < margins)).sum())

    def _score(
        self, pairs: Sequence[tuple[TrainingExample, Rationale]]
    ) -> tuple[list[tuple[float, float]], float]:
        """Cross entropy of each sample under the student as it is now, and the margin under which
        it acts; and the work of it."""
        student = self._get_student()

        def score() -> list[Any]:
            flops = student.flops
            with student.uncounted():
                loss = self._schedule.spec.loss
                # The other contrasts have no margin past which a negative is left alone.
                delta = loss.delta if loss.contrast == "margin" else math.inf
                scored = score_pairs(student, pairs, delta, self._schedule.objective)
                return [scored, student.flops - flops]

        # On one rank: what follows from the scores must be the same on all.
        scored, work = student.ranks.run_on_main(score)
        return [(ce, margin) for ce, margin in scored], work


STUDENT, FIXED = RationaleSource.STUDENT, RationaleSource.FIXED


def _draw(examples: Sequence[TrainingExample], salt: str) -> list[TrainingExample]:
    """At most `PROBED_QUESTIONS` of them, in their order."""
    size = min(PROBED_QUESTIONS, len(examples))
    indices = sorted(random.Random(salt).sample(range(len(examples)), size))
    return [examples[i] for i in indices]
