"""A job's report: every row side by side, and what is said of the published student alone."""

from __future__ import annotations

from collections.abc import Sequence

from qcrd.method.evaluation import cascade, predict
from qcrd.method.evaluation.near_duplicates import flag_near_duplicates
from qcrd.method.evaluation.statistics import (
    compare_methods,
    flag_leaked,
    flag_repeated,
    wilson_interval,
)
from qcrd.method.prompts import format_question
from qcrd.method.training.schedule import compute_untrained_share
from qcrd.records.job import Job, JobStatus, LeakReport, ModelRef, Report
from qcrd.records.reports.accuracy import Accuracy, Comparison
from qcrd.records.reports.doubt import CascadeReport
from qcrd.records.specs.task import TaskSpec
from services.trainer.checkpoints.store import StudentResult
from services.trainer.data.training_dataset import TrainingDataset
from services.trainer.results import publish
from services.trainer.results.advice import give_advice
from services.trainer.results.classes import count_classes
from services.trainer.results.serving import compute_costs

TEACHER_ROW = "teacher"
"""What the student's answers are to take the place of."""


def build_report(job: Job, dataset: TrainingDataset, results: dict[str, StudentResult]) -> Report:
    """All rows of the report, side by side."""
    golds = [item.gold for item in dataset.test]
    test: dict[str, Accuracy] = {}
    if golds:
        asked_items = [item for item in dataset.test if item.teacher_asked]
        if asked_items:
            test[TEACHER_ROW] = wilson_interval(
                sum(t.teacher_answer == t.gold for t in asked_items), len(asked_items)
            )
        training_golds = [example.gold for example in dataset.examples]
        test["majority_class"] = predict.majority_class_accuracy(training_golds, golds)
        test |= {row: result.test for row, result in results.items() if result.test}
    main_result = results[job.spec.method.value]
    is_repeated, is_leaked = _flag_repetitions(dataset, job.spec.settings.task)
    unseen_accuracy = _unseen_accuracy(results, is_leaked)
    notes = []
    if dataset.revision.edits:
        notes.append(
            f"people edited the rationale set before it was trained on (revision "
            f"{dataset.revision.id}); `rationales` counts what was assembled"
        )
    if not golds:
        notes.append("no test file was given: accuracies are on validation only")
    if unseen_accuracy:
        n_unseen = next(iter(unseen_accuracy.values())).n
        notes.append(
            f"{len(golds) - n_unseen} of {len(golds)} test questions occur in training under other "
            "numbers; `test_unseen` leaves them out"
        )
    report = Report(
        job_id=job.id,
        status=JobStatus.SUCCEEDED,
        test=test,
        test_unseen=unseen_accuracy,
        validation={row: result.validation for row, result in results.items()},
        rationales=dataset.manifest.counts,
        usage=job.usage,
        model=ModelRef(id=publish.model_id(job.id)),
        seconds=job.seconds,
        seed=job.spec.seed,
        judge=main_result.judge,
        notes=tuple(notes),
        leak=_make_leak_report(job, dataset, is_repeated, is_leaked) if golds else None,
        untrained_share=compute_untrained_share(
            job.spec.method.value, job.spec.settings, len(dataset.examples)
        ),
        comparisons=_compare_with_baselines(job, results),
        against_teacher=_compare_with_teacher(job, dataset, main_result),
        rationale_use={row: r.rationale_use for row, r in results.items() if r.rationale_use},
        rationale_gap={row: r.rationale_gap for row, r in results.items() if r.rationale_gap},
        in_force_share={
            row: r.in_force_share for row, r in results.items() if r.in_force_share is not None
        },
        rationale_revision=dataset.revision.id,
        answering=main_result.answering,
        doubt=main_result.doubt,
        cascade=_confirm_cascade(job, dataset, main_result),
        teacher_serving=dataset.manifest.serving,
        student_serving=main_result.serving,
        costs=compute_costs(
            dataset.manifest.serving,
            main_result.serving,
            training_seconds=main_result.seconds,
            machine_cost_per_hour=job.spec.settings.evaluation.machine_cost_per_hour,
        ),
        classes=count_classes(main_result.predictions),
        teacher_only=_count_teacher_only(dataset, main_result),
    )
    return report.model_copy(update={"advice": give_advice(report, job.spec.method.value)})


def _flag_repetitions(dataset: TrainingDataset, task: TaskSpec) -> tuple[list[bool], list[bool]]:
    """Which test questions occur in training as they are, and which under other numbers."""
    training_texts, test_texts = _list_texts(dataset, task)
    return flag_repeated(training_texts, test_texts), flag_leaked(training_texts, test_texts)


def _list_texts(dataset: TrainingDataset, task: TaskSpec) -> tuple[list[str], list[str]]:
    """The training and the test questions as the student reads them."""
    return (
        [example.text for example in dataset.examples],
        [format_question(task, item.question) for item in dataset.test],
    )


def _make_leak_report(
    job: Job, dataset: TrainingDataset, is_repeated: Sequence[bool], is_leaked: Sequence[bool]
) -> LeakReport:
    is_near = flag_near_duplicates(*_list_texts(dataset, job.spec.settings.task))
    return LeakReport(
        n_test=len(is_leaked),
        n_leaked=sum(is_leaked),
        n_exact=sum(is_repeated),
        n_near=None if is_near is None else sum(is_near),
    )


def _count_teacher_only(dataset: TrainingDataset, result: StudentResult) -> int | None:
    """None where the teacher was asked no test question."""
    pairs = [
        (item.teacher_answer == item.gold, prediction.right)
        for prediction, item in zip(result.predictions, dataset.test, strict=True)
        if item.teacher_asked
    ]
    return sum(teacher and not student for teacher, student in pairs) if pairs else None


def _compare_with_baselines(job: Job, results: dict[str, StudentResult]) -> tuple[Comparison, ...]:
    """The method against every other row, question by question; none without a test set."""
    name = job.spec.method.value
    correct_by_method = {
        baseline: [p.right for p in result.predictions] for baseline, result in results.items()
    }
    return tuple(
        compare_methods((name, correct_by_method[name]), (row, correct), seed=job.spec.seed)
        for row, correct in correct_by_method.items()
        if row != name and correct
    )


def _compare_with_teacher(
    job: Job, dataset: TrainingDataset, result: StudentResult
) -> Comparison | None:
    """On the questions that the teacher was asked, once each or by the vote of several outputs."""
    pairs = [
        (prediction.right, item.teacher_answer == item.gold)
        for prediction, item in zip(result.predictions, dataset.test, strict=True)
        if item.teacher_asked
    ]
    if not pairs:
        return None
    student, teacher = ([pair[i] for pair in pairs] for i in (0, 1))
    method = job.spec.method.value
    return compare_methods((method, student), (TEACHER_ROW, teacher), seed=job.spec.seed)


def _confirm_cascade(
    job: Job, dataset: TrainingDataset, result: StudentResult
) -> CascadeReport | None:
    """On the test questions that the teacher was asked. A question's cost is at most what one cost
    this job, with all of its outputs and those that were reused left out."""
    if result.cascade is None:
        return None
    asked = [
        (prediction, item.teacher_answer)
        for prediction, item in zip(result.predictions, dataset.test, strict=True)
        if item.teacher_asked
    ]
    counts = dataset.manifest.counts
    bought = counts.questions * (counts.outputs - counts.reused) / max(1, counts.outputs)
    questions, cost = bought + len(asked), job.usage.cost
    return cascade.confirm(
        result.cascade,
        [prediction for prediction, _ in asked],
        [answer for _, answer in asked],
        question_cost=cost / questions if cost and questions else None,
        currency=job.usage.currency,
    )


def _unseen_accuracy(
    results: dict[str, StudentResult], is_leaked: Sequence[bool]
) -> dict[str, Accuracy]:
    """Each student's accuracy on the test questions that it cannot have memorised."""
    if not any(is_leaked) or all(is_leaked):
        return {}
    correct_by_method = {
        row: [p.right for p, leak in zip(result.predictions, is_leaked, strict=True) if not leak]
        for row, result in results.items()
    }
    return {
        row: wilson_interval(sum(correct), len(correct))
        for row, correct in correct_by_method.items()
    }
