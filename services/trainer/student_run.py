"""Trains and tests one student, resumable at every checkpoint."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from torch.distributed.device_mesh import DeviceMesh

from qcrd.errors import Interrupted
from qcrd.method.evaluation import predict
from qcrd.method.judge.model import JudgeBackend
from qcrd.method.student.base import Student, Weights
from qcrd.method.training.checkpoint import (
    TrainerState,
    capture_state,
    make_empty_tensor,
    restore_state,
)
from qcrd.method.training.negatives.sampler import (
    InlineNegativeSampler,
    NegativeSampler,
    copy_student,
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
from qcrd.records.job import Stage
from qcrd.records.rationales import Prediction
from qcrd.records.reports.accuracy import Accuracy
from qcrd.runtime.jobs.stage_context import StageContext
from services.trainer import training_events
from services.trainer.checkpoints.store import CheckpointStore, StudentResult
from services.trainer.checkpoints.writer import CheckpointWriter
from services.trainer.data.training_dataset import TrainingDataset
from services.trainer.results import measuring, rationale_scores
from services.trainer.results.answer_judging import AnswerJudgeTraining
from services.trainer.results.answering import (
    StudentAnswers,
    compute_answer_tokens,
    measure_answers,
)
from services.trainer.results.measuring import Asker

EMIT_INTERVAL_SECONDS = 1.0
"""At most one progress write and one metrics event per second, however fast the steps are."""


@dataclass(frozen=True)
class StudentRun:
    """One student's training within a job; `progress_share` of the job's training, from `start`
    on. Of a student that is not published, a baseline's, no more than its answers is measured."""

    schedule: TrainingSchedule
    dataset: TrainingDataset
    make_student: Callable[[], Student]
    judge: JudgeBackend | None
    make_sampler: Callable[[Student], NegativeSampler] = InlineNegativeSampler
    load_fixed_weights: Callable[[Student], Weights] | None = None
    mesh: DeviceMesh | None = None
    mark_progress: Callable[[], None] = never_interrupt
    answer_judge: AnswerJudgeTraining | None = None
    is_published: bool = True
    progress_start: float = 0.0
    progress_share: float = 1.0

    def compute_percent(self, completed_fraction: float) -> float:
        """Of the job's training."""
        return 100 * (self.progress_start + self.progress_share * min(1.0, completed_fraction))


def train_student(
    stage: StageContext,
    student_run: StudentRun,
    checkpoints: CheckpointStore,
    on_finished: Callable[[Student, StudentAnswers], None],
) -> StudentResult:
    """Train, keep the best on validation, predict the test set once; `on_finished` gets that
    student. An existing result is returned as it is."""
    method = student_run.schedule.method
    settings = student_run.schedule.spec
    if (existing_result := checkpoints.find_result(method)) is not None:
        # It may have been saved by a process that died before it emitted the event.
        training_events.emit_result(stage, method, existing_result, settings.task)
        return existing_result
    examples = student_run.dataset.examples
    if stage.job.stage is not Stage.TRAINING:  # another student was measured last
        stage.enter_stage(Stage.TRAINING)
    student = student_run.make_student()
    # Before it is sharded: what is measured and sampled from is whole.
    whole_student = copy_student(student) if student_run.mesh is not None else student
    training_events.emit_untrained_share(stage, student_run.schedule, len(examples))
    trainer = Trainer(
        student,
        examples,
        student_run.schedule,
        lambda tested: measuring.compute_validation_score(
            tested,
            student_run.dataset.validation,
            student_run.schedule,
            student_run.mark_progress,
        ),
        student_run.judge,
        student_run.make_sampler(whole_student)
        if student_run.schedule.objective.uses_negatives
        else None,
        student_run.load_fixed_weights(student) if student_run.load_fixed_weights else None,
        student_run.mesh,
        whole_student if student_run.mesh is not None else None,
    )
    if trainer.negative_supply.drops_all_samples:
        training_events.warn_about_dropped_samples(stage, method)
    with contextlib.closing(trainer.negative_sampler):
        earlier = resume_trainer(stage, method, trainer, checkpoints)
        seconds, judge_metrics = run_trainer(stage, student_run, trainer, checkpoints, earlier)
    student = trainer.restore_best()
    # What follows takes as long as a short training, and is none.
    stage.enter_stage(Stage.EVALUATING)
    # Before anything is measured: that is no part of a method's compute.
    trained_tokens = trainer.student.tokens
    tokens = None if math.isnan(trained_tokens) else round(trained_tokens)
    cost = {"steps": trainer.step, "tokens": tokens, "flops": trainer.flops, "seconds": seconds}
    dataset = student_run.dataset
    answers = measure_answers(
        Asker(
            student,
            student_run.schedule,
            student_run.mark_progress,
            partial(training_events.tell_measuring, stage, method),
        ),
        dataset,
        student_run.answer_judge,
        is_published=student_run.is_published,
    )
    # Before the result is kept: a run that is killed here does this part again.
    rationale_scores.write_scores(
        stage.store, stage.job.id, dataset.manifest, dataset.revision, settings.task, trainer
    )
    on_finished(student, answers)
    result = StudentResult(
        validation=_make_row(answers.validation),
        test=_make_row(answers.test).model_copy(update=cost) if answers.test else None,
        predictions=answers.test,
        judge=judge_metrics,
        rationale_use=measuring.measure_rationale_use(
            student,
            student_run.dataset,
            answers.test,
            student_run.schedule,
            student_run.mark_progress,
        ),
        rationale_gap=measuring.measure_rationale_gap(
            student, dataset.validation, student_run.schedule, student_run.mark_progress
        ),
        in_force_share=_get_in_force_share(trainer),
        answering=answers.report,
        doubt=answers.doubt,
        cascade=answers.cascade,
        serving=answers.serving,
        **cost,
    )
    checkpoints.save_result(method, result)
    training_events.emit_result(stage, method, result, settings.task)
    return result


def _get_in_force_share(trainer: Trainer) -> float | None:
    """None where there is no eq. 7 to act: another contrast, or one that weighs nothing."""
    loss, shares = trainer.schedule.spec.loss, trainer.in_force_shares
    is_told = loss.contrast == "margin" and loss.beta > 0 and shares
    return statistics.fmean(shares) if is_told else None


def _make_row(predictions: Sequence[Prediction]) -> Accuracy:
    row = predict.accuracy(predictions)
    return row.model_copy(update={"answer_tokens": compute_answer_tokens(predictions)})


@dataclass(frozen=True)
class EarlierRun:
    """What was spent and found up to the state that is resumed from: nothing, at the start."""

    seconds: float = 0.0
    judge_metrics: dict[str, float] = field(default_factory=dict)


def resume_trainer(
    stage: StageContext, method: str, trainer: Trainer, checkpoints: CheckpointStore
) -> EarlierRun:
    """Resume from the newest intact state, if any."""
    state, rejected = checkpoints.load(method, partial(make_empty_tensor, trainer))
    for reason in rejected:
        stage.events.append(
            stage.job.id,
            f"{method}: a checkpoint was not used, {reason}; going on from "
            f"{'the one before it' if state else 'the start'}",
            level="warn",
        )
    if state is None:
        return EarlierRun()
    restore_state(trainer, state)
    stage.emit(
        f"{method}: resumed after step {trainer.step}",
        method=method,
        step=trainer.step,
        iteration=trainer.iteration,
    )
    # A checkpoint of an earlier release says nothing of the judge.
    return EarlierRun(float(state.numbers["seconds"]), dict(state.numbers.get("judge", {})))


def run_trainer(
    stage: StageContext,
    student_run: StudentRun,
    trainer: Trainer,
    checkpoints: CheckpointStore,
    earlier: EarlierRun,
) -> tuple[float, dict[str, float]]:
    """Consume the trainer's records: emit, save, stop on request. Returns seconds and judge health.

    A resumed run emits nothing twice: steps up to the last one in the event log are skipped, and
    every other event has a name under which it is appended once.
    """
    method, started, last_emit = student_run.schedule.method, time.monotonic(), 0.0
    last_emitted_step = training_events.find_last_emitted_step(stage, method)
    judge_metrics = earlier.judge_metrics
    inert_negatives = training_events.InertNegatives(stage, method)
    ranks = checkpoints.ranks

    def elapsed_seconds() -> float:
        return earlier.seconds + time.monotonic() - started

    def keep_judge(oldest_version: int) -> None:
        if trainer.judge is not None:
            trainer.judge.oldest_version = oldest_version

    writer = CheckpointWriter(checkpoints, method, keep_judge)

    def save_state(state: TrainerState) -> None:
        told = {"seconds": elapsed_seconds(), "judge": judge_metrics}
        writer.save(replace(state, numbers={**state.numbers, **told}))

    # A phase may be interrupted; nothing that `phase_state` refers to changes during it.
    phase_state: TrainerState | None = None
    records = trainer.run()
    while True:
        try:
            record = next(records, None)
        except Interrupted:
            if phase_state is not None:
                save_state(phase_state)
                writer.wait()
            raise
        student_run.mark_progress()
        if record is None:
            break
        # Any rank may be told to stop; when to save is the main one's to say.
        is_due = ranks.is_main and writer.is_due()
        stopping, saving = ranks.sum([stage.should_stop(), is_due])
        phase_state = capture_state(trainer) if isinstance(record, PhaseStarted) else None
        # Told before a stop: the state that is saved then is behind it, and tells of it no more.
        match record:
            case PhaseStarted() if not stopping:
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
        if stopping or saving:
            save_state(capture_state(trainer))
        if stopping:
            writer.wait()
            raise Interrupted(f"job {stage.job.id} was asked to stop")
    writer.wait()
    return elapsed_seconds(), {**trainer.pretrain_metrics, **judge_metrics}
