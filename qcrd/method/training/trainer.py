"""The iteration schedule: sample negatives from the past, update the judge, train, validate.

A `Trainer` is a generator of records; its caller does the I/O, and stops it by ending the loop.
Everything random is a function of (seed, iteration, step), so a trainer restored between any two
steps continues exactly as without the interruption.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from torch.distributed.device_mesh import DeviceMesh

from qcrd.method.judge.model import JudgeBackend
from qcrd.method.judge.training_pairs import TrainingPair, choose_questions, make_training_pair
from qcrd.method.student.base import Student, Weights
from qcrd.method.training import divergence, scoring, selection, weight_history
from qcrd.method.training.iteration_data import (
    BestStudent,
    IterationData,
    ValidationScore,
    iterate_iteration,
    select_examples,
)
from qcrd.method.training.negatives.sample_filter import SampledRationales
from qcrd.method.training.negatives.sampler import (
    InlineNegativeSampler,
    NegativeSampler,
)
from qcrd.method.training.negatives.supply import NegativeSupply
from qcrd.method.training.optimizer_step import OptimizerStep
from qcrd.method.training.progress import (
    IterationFinished,
    JudgePretrained,
    PhaseStarted,
    StepFinished,
)
from qcrd.method.training.schedule import TrainingSchedule
from qcrd.method.training.training_example import TrainingExample
from qcrd.method.training.weight_history import copy_trainable_weights
from qcrd.records.judge import get_judge_version


class Trainer:
    """Trains `student` by `schedule`; `validate` measures it, `judge` scores if the plan asks.

    `negative_sampler` samples the negatives, by default in this process; `fixed_weights` are the
    weights of the negative source of that name. With a `mesh` the student is sharded over its
    ranks, every one of which runs a trainer like this; `whole_student` is then a whole copy of it,
    which is measured and sampled from.
    """

    def __init__(
        self,
        student: Student,
        examples: Sequence[TrainingExample],
        schedule: TrainingSchedule,
        validate: Callable[[Student], ValidationScore],
        judge: JudgeBackend | None = None,
        negative_sampler: NegativeSampler | None = None,
        fixed_weights: Weights | None = None,
        mesh: DeviceMesh | None = None,
        whole_student: Student | None = None,
    ) -> None:
        self.student = student
        self.whole_student = whole_student or student
        self.examples = examples
        self.schedule = schedule
        self.validate = validate
        self.judge = scoring.choose_judge(schedule, judge)
        self.optimizer_step = OptimizerStep(student, schedule, mesh)
        self.weight_history = weight_history.make_history(
            schedule, has_fixed=fixed_weights is not None, needs_reference=self.needs_reference
        )
        self.negative_supply = NegativeSupply(
            self.load_whole_student,
            schedule,
            examples,
            negative_sampler
            or InlineNegativeSampler(self.whole_student, is_copy=whole_student is not None),
            self.weight_history,
            fixed_weights,
        )
        self.negative_sampler = self.negative_supply.sampler
        self.collapse_check = divergence.CollapseCheck(len(student.tokenizer))
        self.started = False
        self.iteration = 0
        self.step = 0
        self.step_in_iteration = 0
        """Steps done of the current iteration."""
        self.iteration_data: IterationData | None = None
        self.last_samples: SampledRationales = {}
        """The negatives of the last iteration that ended here; none after a resumption."""
        self.best: BestStudent | None = None
        self.pretrain_metrics: dict[str, float] = {}
        self.in_force_shares: list[float] = []
        """Of each iteration with negatives that has ended."""
        self.chosen: list[str] | None = None
        """Ids of the positives that are taught, where the spec has them chosen."""

    @property
    def needs_reference(self) -> bool:
        """Whether rationales are scored by the untrained student too."""
        return self.schedule.objective.uses_negatives and self.schedule.spec.loss.contrast == "dpo"

    @property
    def flops(self) -> float:
        """Floating-point operations so far: student, sampling of negatives and judge."""
        judge_flops = 0.0 if self.judge is None else self.judge.flops
        return self.student.flops + self.negative_sampler.flops + judge_flops

    @property
    def judge_version(self) -> int:
        """Version of the current judge: 0 untrained, 1 pretrained, t + 2 by iteration t."""
        return get_judge_version(self.iteration - (self.iteration_data is None))

    def run(self) -> Iterator[PhaseStarted | JudgePretrained | StepFinished | IterationFinished]:
        if not self.started:
            self.weight_history.push(0, copy_trainable_weights(self.student))
            if self.chosen is None and selection.chooses_positives(self.schedule):
                yield PhaseStarted("choosing the rationales to teach")
                self.teach_only(self._choose_positives())
            if self.judge is not None:
                yield PhaseStarted("pretraining the judge")
                metrics = self.judge.pretrain(self._make_training_pairs(self.examples))
                self.pretrain_metrics = {
                    f"pretrained_{name}": value for name, value in metrics.items()
                }
                self.started = True
                yield JudgePretrained(metrics, self.judge.histograms)
            self.started = True
        # An iteration that was prepared is closed, also where its last step was the plan's last.
        while self.iteration_data is not None or not self._is_finished():
            if self.iteration_data is None:
                if self.schedule.objective.uses_negatives:
                    yield PhaseStarted(f"negatives for iteration {self.iteration + 1}")
                self.iteration_data = self._prepare_iteration()
            first_step = self.first_step
            yield from self._train_iteration(self.iteration_data)
            yield self._finish_iteration(self.iteration_data, first_step)

    def _choose_positives(self) -> list[str]:
        """By the untrained student; the pass is part of the method's compute."""
        chosen, work = selection.choose_positives_by_difficulty(
            self.load_whole_student(), self.examples, self.schedule
        )
        self.student.flops += work
        return chosen

    def teach_only(self, chosen: list[str]) -> None:
        """Leave out every positive but those of these ids."""
        self.chosen = chosen
        self.examples = selection.keep_chosen(self.examples, chosen)

    def load_whole_student(self) -> Student:
        """The student as it is now, whole, to be measured."""
        if self.whole_student is not self.student:
            weight_history.load_weights(
                self.whole_student, weight_history.get_trainable_weights(self.student)
            )
        return self.whole_student

    def score_reference(self, examples: Sequence[TrainingExample]) -> dict[str, float]:
        """Of every rationale under the untrained student: part of the method's compute."""
        with weight_history.weights_of(
            self.load_whole_student(), self.weight_history.by_iteration[0]
        ) as reference:
            return scoring.score_texts(reference, examples, self.schedule.objective)

    def restore_best(self) -> Student:
        """The student, whole, with the weights that were best on validation."""
        if self.best is None:
            return self.load_whole_student()
        weight_history.load_weights(self.whole_student, self.best.weights)
        return self.whole_student

    def _is_finished(self) -> bool:
        return self.schedule.completed_fraction(self.step, self.flops) >= 1

    # --- one iteration -------------------------------------------------------------------------

    @property
    def first_step(self) -> int:
        """Number of the current iteration's first step."""
        return self.step - self.step_in_iteration

    def _prepare_iteration(self) -> IterationData:
        """Fresh negatives, an updated judge and fresh scores for this iteration."""
        if not self.schedule.objective.uses_negatives:
            return IterationData()
        used = select_examples(self.schedule, self.examples, self.first_step)
        found = self.negative_supply.prepare(self.iteration, used)
        examples = self.negative_supply.attach(used, found.samples)
        reference = self.score_reference(examples) if self.needs_reference else {}
        if self.judge is None:
            return IterationData(found.samples, negative_metrics=found.metrics, reference=reference)
        alpha3 = (
            self.schedule.spec.loss.alpha[2] * self.schedule.spec.loss.alpha3_decay**self.iteration
        )
        judge_metrics = self.judge.update(
            self.iteration, self._make_training_pairs(examples), weight=alpha3
        )
        return IterationData(
            found.samples,
            scoring.score_rationales(self.judge, self.schedule, self.iteration, examples),
            judge_metrics,
            self.judge.histograms,
            found.metrics,
            reference,
        )

    def _train_iteration(self, iteration_data: IterationData) -> Iterator[StepFinished]:
        self._prefetch_negatives()
        self.optimizer_step.module.reference = iteration_data.reference
        examples = self.negative_supply.attach(self.examples, iteration_data.samples)
        batches = iterate_iteration(self.schedule, examples, self.first_step)
        for batch in itertools.islice(batches, self.step_in_iteration, None):
            if self._is_finished():
                return
            yield self._train_step(batch, iteration_data.scores)

    def _finish_iteration(
        self, iteration_data: IterationData, first_step: int
    ) -> IterationFinished:
        self.iteration += 1
        if iteration_data.negative_metrics.get("negatives"):
            self.in_force_shares.append(iteration_data.negative_metrics["in_force_share"])
        self.step_in_iteration, self.iteration_data = 0, None
        self.last_samples = iteration_data.samples
        self.weight_history.push(self.iteration, copy_trainable_weights(self.student))
        score, is_best = None, False
        if self._is_finished() or self.schedule.is_validated(first_step, self.step):
            score, is_best = self._validate()
        return IterationFinished(
            self.iteration,
            None if score is None else score[0],
            is_best,
            iteration_data.judge_metrics,
            self.flops,
            iteration_data.histograms,
            iteration_data.negative_metrics,
        )

    def _validate(self) -> tuple[ValidationScore, bool]:
        """The score of the student as it is, and whether it is the best so far."""
        student = self.load_whole_student()
        with student.uncounted():  # measuring is no part of a method's compute
            score = self.validate(student)
        is_best = self.best is None or score > self.best.score
        if is_best:
            weights = self.weight_history.by_iteration[self.iteration]
            self.best = BestStudent(score, self.iteration, weights)
        return score, is_best

    def _train_step(
        self, batch: Sequence[TrainingExample], scores: dict[str, float]
    ) -> StepFinished:
        seed = random.Random(f"{self.schedule.seed}/step/{self.step}").getrandbits(62)
        # Once per iteration: it costs as much as two more steps.
        measure = self.step_in_iteration == 0 and self.schedule.objective.uses_negatives
        norms = self.optimizer_step.measure_terms(batch, scores, seed) if measure else {}
        self._note_gradients(norms)
        losses = self.optimizer_step.backward(batch, scores, seed) | norms
        divergence.check_losses(self.schedule, self.step, losses)
        self.collapse_check.add(self.schedule, self.step, losses)
        gradient_norm = self.optimizer_step.clip_gradients()
        divergence.check_gradient_norm(self.schedule, self.step, gradient_norm)
        learning_rate = self.schedule.learning_rate(self.step, self.flops)
        self.optimizer_step.apply(learning_rate)
        self.step += 1
        self.step_in_iteration += 1
        completed_fraction = self.schedule.completed_fraction(self.step, self.flops)
        return StepFinished(
            self.step, completed_fraction, self.iteration, losses, gradient_norm, learning_rate
        )

    def _note_gradients(self, norms: dict[str, float]) -> None:
        """Add them to what is told of the iteration's negatives: of its steps not all are told."""
        if norms and self.iteration_data is not None:
            metrics = self.iteration_data.negative_metrics | norms
            self.iteration_data = replace(self.iteration_data, negative_metrics=metrics)

    # --- negatives and scores ------------------------------------------------------------------

    def _prefetch_negatives(self) -> None:
        """Announce the next iteration's samples: with a lag of at least 1 its weights exist."""
        first_step = self.first_step + self.schedule.iteration_steps
        if self.schedule.flops is None and first_step >= self.schedule.steps:
            return  # this iteration is the last
        if self.schedule.objective.uses_negatives:
            used = select_examples(self.schedule, self.examples, first_step)
            self.negative_supply.prefetch(self.iteration + 1, used)

    def _make_training_pairs(self, examples: Sequence[TrainingExample]) -> list[TrainingPair]:
        chosen = choose_questions([x.text for x in examples], seed=self.schedule.seed)
        asked = (examples[place] for place in chosen)
        return [make_training_pair(x.text, x.positives, x.negatives) for x in asked]
