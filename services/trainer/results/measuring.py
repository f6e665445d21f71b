"""What is measured of a student, each of its ranks doing a share."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qcrd.method.evaluation import predict, rationale_use
from qcrd.method.prompts import EXPLAIN_PREFIX, format_question
from qcrd.method.student.base import Student
from qcrd.method.student.targets import Target, joined_target, reasoned_target
from qcrd.method.training.iteration_data import ValidationScore
from qcrd.method.training.negatives.sampler import never_interrupt
from qcrd.method.training.objectives import Objective
from qcrd.method.training.schedule import TrainingSchedule
from qcrd.method.training.training_example import make_rationale_target
from qcrd.records.rationales import Prediction, Question, RationaleGap, RationaleUse
from qcrd.records.students.prompt_format import read_own_rationale
from services.trainer.data.training_dataset import LabeledQuestions, TrainingDataset

SCORING_BATCH_SIZE = 64
"""Validation questions that are scored in one call, which parts them further where they are long.
"""


def measure_rationale_use(
    student: Student,
    dataset: TrainingDataset,
    test_predictions: Sequence[Prediction],
    schedule: TrainingSchedule,
    check: Callable[[], None] = never_interrupt,
) -> RationaleUse | None:
    """Of a student that explains under a prefix of its own; None of others, or without a test."""
    objective, settings = schedule.objective, schedule.spec
    has_two_tasks = objective.max_positives != 0 and not objective.reasons
    if not has_two_tasks or not test_predictions:
        return None
    return rationale_use.measure_rationale_use(
        student,
        [item.question for item in dataset.test],
        test_predictions,
        settings.task,
        max_rationale_tokens=settings.hyperparameters.max_rationale_tokens,
        max_label_tokens=settings.hyperparameters.max_label_tokens,
        check=check,
    )


def measure_rationale_gap(
    student: Student,
    labeled: LabeledQuestions,
    schedule: TrainingSchedule,
    check: Callable[[], None] = never_interrupt,
) -> RationaleGap | None:
    """None for a student that learns no rationales under the explain task, and without a held-out
    question with right and wrong ones of the teacher."""
    if schedule.objective.max_positives == 0 or schedule.objective.joined:
        return None
    both = [
        (format_question(schedule.spec.task, question), right, wrong)
        for question, gold, rationales in zip(
            labeled.questions, labeled.golds, labeled.rationales, strict=False
        )
        if (right := [r for r in rationales if r.answer == gold])
        and (wrong := [r for r in rationales if r.answer not in (None, gold)])
    ]
    if not both:
        return None

    def score_own() -> list[tuple[float, float]]:
        scored = []
        with student.uncounted():
            for i in student.ranks.select_own(range(len(both))):
                check()
                text, right, wrong = both[i]
                targets = [make_rationale_target(r, schedule.objective) for r in (*right, *wrong)]
                prompts, places = [EXPLAIN_PREFIX + text], [0] * len(targets)
                ce = student.mean_cross_entropy(prompts, places, targets).tolist()
                n = len(right)
                scored.append((statistics.fmean(ce[:n]), statistics.fmean(ce[n:])))
        return scored

    means = student.ranks.gather_lists(score_own)
    return RationaleGap(
        questions=len(means),
        right=statistics.fmean(right for right, _ in means),
        wrong=statistics.fmean(wrong for _, wrong in means),
    )


def compute_validation_score(
    student: Student,
    labeled: LabeledQuestions,
    schedule: TrainingSchedule,
    check: Callable[[], None] = never_interrupt,
) -> ValidationScore:
    """Accuracy, then minus the labels' mean cross entropy: small sets tie often. Of a student whose
    output holds both it is that of the label behind the rationale that it gives itself: a bare
    label is nothing that it ever says."""
    predictions = predict_labeled(student, labeled, schedule, check)
    objective = schedule.objective
    prompts = [
        objective.answer_prefix + format_question(schedule.spec.task, question)
        for question in labeled.questions
    ]
    targets = [
        _make_target(objective, read_own_rationale(prediction.text), label)
        if objective.says_both
        else Target(answer=label)
        for prediction, label in zip(predictions, labeled.labels, strict=True)
    ]
    starts = range(0, len(prompts), SCORING_BATCH_SIZE)

    def score_own() -> list[float]:
        sums = []
        for start in student.ranks.select_own(starts):
            check()
            rows = slice(start, start + SCORING_BATCH_SIZE)
            sums.append(float(student.answer_cross_entropy(prompts[rows], targets[rows]).sum()))
        return sums

    total = sum(student.ranks.gather_lists(score_own))
    return predict.accuracy(predictions).accuracy, -total / len(prompts)


def _make_target(objective: Objective, rationale: str, label: str) -> Target:
    return (
        joined_target(rationale, label) if objective.joined else reasoned_target(rationale, label)
    )


def predict_labeled(
    student: Student,
    labeled: LabeledQuestions,
    schedule: TrainingSchedule,
    check: Callable[[], None],
    *,
    beginnings: Sequence[Target] = (),
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Prediction]:
    """Answers by which the student is measured, greedy by default; see `predict.predict`."""
    hyper, objective = schedule.spec.hyperparameters, schedule.objective
    joined = objective.says_both
    max_new_tokens = hyper.max_rationale_tokens * joined + hyper.max_label_tokens
    return predict.predict(
        student,
        labeled.questions,
        labeled.golds,
        schedule.spec.task,
        max_new_tokens=max_new_tokens,
        prefix=objective.answer_prefix,
        joined=joined,
        options=() if objective.predicts else schedule.spec.enforced_labels,
        beginnings=beginnings,
        temperature=temperature,
        seed=seed,
        check=check,
    )


@dataclass(frozen=True)
class Asker:
    """Asks a finished student outside of what its training is counted to have cost. `check` runs
    before each batch; `tell` gets what is about to take long."""

    student: Student
    schedule: TrainingSchedule
    check: Callable[[], None] = never_interrupt
    tell: Callable[[str], None] = lambda _: None

    def answer(
        self, labeled: LabeledQuestions, beginnings: Sequence[Target] = ()
    ) -> list[Prediction]:
        """Greedy, each output beginning as told."""
        with self.student.uncounted():
            return predict_labeled(
                self.student, labeled, self.schedule, self.check, beginnings=beginnings
            )

    def sample(self, labeled: LabeledQuestions, name: str) -> list[list[Prediction]]:
        """`evaluation.samples` outputs of each question; `name`, what questions they are, salts
        the seed."""
        settings = self.schedule.spec.evaluation
        k = settings.samples
        self.tell(f"{k} outputs for each of {len(labeled.questions)} {name} questions")
        repeated = LabeledQuestions(
            tuple(question for question in labeled.questions for _ in range(k)),
            tuple(gold for gold in labeled.golds for _ in range(k)),
            (),
        )
        with self.student.uncounted():
            predictions = predict_labeled(
                self.student,
                repeated,
                self.schedule,
                self.check,
                temperature=settings.temperature,
                seed=random.Random(f"{self.schedule.seed}/answers/{name}").getrandbits(31),
            )
        return [predictions[start : start + k] for start in range(0, len(predictions), k)]

    def format(self, question: Question) -> str:
        return format_question(self.schedule.spec.task, question)
