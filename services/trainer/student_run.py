"""Trains and tests one student, resumable at every checkpoint."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from qcrd.errors import Interrupted
from qcrd.method.evaluation import predict, rationale_use
from qcrd.method.judge.model import JudgeBackend
from qcrd.method.prompts import PREDICT_PREFIX, format_question
from qcrd.method.student.base import Student, Weights
from qcrd.method.student.targets import Target, joined_target
from qcrd.method.training.checkpoint import TrainerState, capture_state, restore_state
from qcrd.method.training.distributed import DataParallelGroup
from qcrd.method.training.iteration_data import ValidationScore
from qcrd.method.training.negative_sampler import (
    InlineNegativeSampler,
    NegativeSampler,
    never_interrupt,
)
from qcrd.method.training.progress import (
    IterationFinished,
    JudgePretrained,
    PhaseStarted,
    StepFinished,
)
from qcrd.method.training.schedule import TrainingSchedule
from qcrd.method.training.trainer import Trainer
from qcrd.records.prompt_format import read_own_rationale
from qcrd.records.rationales import Prediction, RationaleUse
from qcrd.runtime.jobs.stage_context import StageContext
from services.trainer import rationale_scores, training_events
from services.trainer.checkpoint_store import CheckpointStore, StudentResult
from services.trainer.training_dataset import LabeledQuestions, TrainingDataset

SCORING_BATCH_SIZE = 64
"""Validation questions that are scored in one call, which parts them further where they are long.
"""
EMIT_INTERVAL_SECONDS = 1.0
"""At most one progress write and one metrics event per second, however fast the steps are."""


@dataclass(frozen=True)
class StudentRun:
    """One student's training within a job; `progress_share` of the job's training, from `start`
    on."""

    schedule: TrainingSchedule
    dataset: TrainingDataset
    make_student: Callable[[], Student]
    judge: JudgeBackend | None
    make_sampler: Callable[[Student], NegativeSampler] = InlineNegativeSampler
    load_fixed_weights: Callable[[Student], Weights] | None = None
    process_group: DataParallelGroup | None = None
    mark_progress: Callable[[], None] = never_interrupt
    progress_start: float = 0.0
    progress_share: float = 1.0

    def compute_percent(self, completed_fraction: float) -> float:
        """Of the job's training."""
        return 100 * (self.progress_start + self.progress_share * min(1.0, completed_fraction))


def train_student(
    stage: StageContext,
    student_run: StudentRun,
    checkpoints: CheckpointStore,
    on_finished: Callable[[Student], None],
) -> StudentResult:
    """Train, keep the best on validation, predict the test set once; `on_finished` gets that
    student. An existing result is returned as it is."""
    method = student_run.schedule.method
    settings = student_run.schedule.spec
    if (existing_result := checkpoints.load_result(method)) is not None:
        # It may have been saved by a process that died before it emitted the event.
        training_events.emit_result(stage, method, existing_result, settings.task)
        return existing_result
    examples = student_run.dataset.examples
    student = student_run.make_student()
    training_events.emit_untrained_share(stage, student_run.schedule, len(examples))
    trainer = Trainer(
        student,
        examples,
        student_run.schedule,
        lambda tested: compute_validation_score(
            tested,
            student_run.dataset.validation,
            student_run.schedule,
            student_run.mark_progress,
        ),
        student_run.judge,
        student_run.make_sampler(student)
        if student_run.schedule.objective.uses_negatives
        else None,
        student_run.load_fixed_weights(student) if student_run.load_fixed_weights else None,
        student_run.process_group,
    )
    with contextlib.closing(trainer.negative_sampler):
        prior_seconds = _resume(stage, method, trainer, checkpoints)
        seconds, judge_metrics = _run_trainer(
            stage, student_run, trainer, checkpoints, prior_seconds
        )
    trainer.restore_best()
    # Before anything is measured: that is no part of a method's compute.
    tokens = None if math.isnan(student.tokens) else round(student.tokens)
    cost = {"steps": trainer.step, "tokens": tokens, "flops": trainer.flops, "seconds": seconds}
    validation_predictions = _predict(
        student,
        student_run.dataset.validation,
        student_run.schedule,
        student_run.mark_progress,
    )
    test = student_run.dataset.test
    test_predictions = _predict(
        student,
        LabeledQuestions(tuple(t.question for t in test), tuple(t.gold for t in test), ()),
        student_run.schedule,
        student_run.mark_progress,
    )
    # Before the result is kept: a run that is killed here does this part again.
    dataset = student_run.dataset
    rationale_scores.write_scores(
        stage.store, stage.job.id, dataset.manifest, dataset.revision, settings.task, trainer
    )
    on_finished(student)
    result = StudentResult(
        validation=predict.accuracy(validation_predictions),
        test=predict.accuracy(test_predictions).model_copy(update=cost)
        if test_predictions
        else None,
        predictions=tuple(test_predictions),
        judge=judge_metrics,
        rationale_use=_measure_rationale_use(student, student_run, test_predictions),
        **cost,
    )
    checkpoints.save_result(method, result)
    training_events.emit_result(stage, method, result, settings.task)
    return result


def _measure_rationale_use(
    student: Student, student_run: StudentRun, test_predictions: Sequence[Prediction]
) -> RationaleUse | None:
    """Of a student that explains under a prefix of its own; None of others, or without a test."""
    objective, settings = student_run.schedule.objective, student_run.schedule.spec
    if objective.joined or objective.max_positives == 0 or not test_predictions:
        return None
    return rationale_use.measure_rationale_use(
        student,
        [item.question for item in student_run.dataset.test],
        test_predictions,
        settings.task,
        max_rationale_tokens=settings.hyperparameters.max_rationale_tokens,
        max_label_tokens=settings.hyperparameters.max_label_tokens,
        check=student_run.mark_progress,
    )


def compute_validation_score(
    student: Student,
    labeled: LabeledQuestions,
    schedule: TrainingSchedule,
    check: Callable[[], None] = never_interrupt,
) -> ValidationScore:
    """Accuracy, then minus the labels' mean cross entropy: small sets tie often. Of a joined
    student it is that of marker and label behind the rationale that it gives itself: a bare label
    is nothing that it ever says."""
    predictions = _predict(student, labeled, schedule, check)
    prompts = [
        PREDICT_PREFIX + format_question(schedule.spec.task, question)
        for question in labeled.questions
    ]
    targets = [
        joined_target(read_own_rationale(prediction.text), label)
        if schedule.objective.joined
        else Target(answer=label)
        for prediction, label in zip(predictions, labeled.labels, strict=True)
    ]
    total = 0.0
    for start in range(0, len(prompts), SCORING_BATCH_SIZE):
        check()
        rows = slice(start, start + SCORING_BATCH_SIZE)
        total += float(student.answer_cross_entropy(prompts[rows], targets[rows]).sum())
    return predict.accuracy(predictions).accuracy, -total / len(prompts)


def _predict(
    student: Student,
    labeled: LabeledQuestions,
    schedule: TrainingSchedule,
    check: Callable[[], None],
) -> list[Prediction]:
    hyper = schedule.spec.hyperparameters
    joined = schedule.objective.joined
    max_new_tokens = hyper.max_rationale_tokens * joined + hyper.max_label_tokens
    return predict.predict(
        student,
        labeled.questions,
        labeled.golds,
        schedule.spec.task,
        max_new_tokens=max_new_tokens,
        joined=joined,
        check=check,
    )


def _resume(
    stage: StageContext, method: str, trainer: Trainer, checkpoints: CheckpointStore
) -> float:
    """Resume from the newest intact state, if any; the seconds that were spent up to it."""
    state, rejected = checkpoints.load(method)
    for reason in rejected:
        stage.events.append(
            stage.job.id,
            f"{method}: a checkpoint was not used, {reason}; going on from "
            f"{'the one before it' if state else 'the start'}",
            level="warn",
        )
    if state is None:
        return 0.0
    restore_state(trainer, state)
    stage.emit(
        f"{method}: resumed after step {trainer.step}",
        method=method,
        step=trainer.step,
        iteration=trainer.iteration,
    )
    return float(state.numbers["seconds"])


def _run_trainer(
    stage: StageContext,
    student_run: StudentRun,
    trainer: Trainer,
    checkpoints: CheckpointStore,
    prior_seconds: float,
) -> tuple[float, dict[str, float]]:
    """Consume the trainer's records: emit, save, stop on request. Returns seconds and judge health.

    A resumed run emits nothing twice: steps up to the last one in the event log are skipped, and
    every other event has a name under which it is appended once.
    """
    method, started, last_emit = student_run.schedule.method, time.monotonic(), 0.0
    last_save = started
    last_emitted_step = training_events.find_last_emitted_step(stage, method)
    judge_metrics: dict[str, float] = {}
    inert_negatives = training_events.InertNegatives(stage, method)

    def elapsed_seconds() -> float:
        return prior_seconds + time.monotonic() - started

    def save_state(state: TrainerState) -> None:
        numbers = {**state.numbers, "seconds": elapsed_seconds()}
        oldest_version = checkpoints.save(method, replace(state, numbers=numbers))
        if trainer.judge is not None:
            trainer.judge.oldest_version = oldest_version

    # A phase may be interrupted; nothing that `phase_state` refers to changes during it.
    phase_state: TrainerState | None = None
    records = trainer.run()
    while True:
        try:
            record = next(records, None)
        except Interrupted:
            if phase_state is not None:
                save_state(phase_state)
            raise
        student_run.mark_progress()
        if record is None:
            break
        if stage.should_stop():
            save_state(capture_state(trainer))
            stage.raise_if_stopping()
        phase_state = capture_state(trainer) if isinstance(record, PhaseStarted) else None
        match record:
            case PhaseStarted():
                stage.emit(f"{method}: {record.name}")
            case JudgePretrained():
                training_events.emit_judge_health(stage, method, 0, record)
            case StepFinished() if (
                time.monotonic() - last_emit >= EMIT_INTERVAL_SECONDS
                and record.step > last_emitted_step
            ):
                last_emit = time.monotonic()
                percent = student_run.compute_percent(record.completed_fraction)
                training_events.emit_step(stage, student_run.schedule, record, percent)
            case IterationFinished():
                judge_metrics = record.judge_metrics or judge_metrics
                training_events.emit_iteration(stage, method, record)
                inert_negatives.watch(record.negative_metrics)
        if time.monotonic() - last_save >= checkpoints.interval_seconds:
            save_state(capture_state(trainer))
            last_save = time.monotonic()
    return elapsed_seconds(), {**trainer.pretrain_metrics, **judge_metrics}
