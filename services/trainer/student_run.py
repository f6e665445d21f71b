"""One student from its base to its test answers, resumable at every iteration."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from qcrd.errors import Interrupted
from qcrd.method.evaluation import predict
from qcrd.method.judge.health import has_collapsed
from qcrd.method.judge.model import JudgeBackend
from qcrd.method.prompts import PREDICT_PREFIX, format_question
from qcrd.method.student.base import Student, Weights
from qcrd.method.training.checkpoint import TrainerState, capture_state, restore_state
from qcrd.method.training.distributed import DataParallelGroup
from qcrd.method.training.negative_sampler import InlineNegativeSampler, NegativeSampler
from qcrd.method.training.progress import (
    IterationFinished,
    JudgePretrained,
    PhaseStarted,
    StepFinished,
)
from qcrd.method.training.schedule import TrainingSchedule
from qcrd.method.training.trainer import Trainer, ValidationScore
from qcrd.records.job import Accuracy
from qcrd.records.rationales import Prediction
from qcrd.records.spec import TaskSpec
from qcrd.runtime.jobs.stage_context import StageContext
from services.trainer import rationale_scores
from services.trainer.checkpoint_store import Checkpoints, Result
from services.trainer.training_dataset import Held, Knowledge

LOOK_BACK = 1000
"""Events that a resumed run reads to know what has been told."""
TELL_SECONDS = 1.0
"""At most one progress write and one metrics event per second, however fast the steps are."""


@dataclass(frozen=True)
class Course:
    """One student's training within a job; `share` of the job's training, from `start` on."""

    plan: TrainingSchedule
    knowledge: Knowledge
    student: Callable[[], Student]
    judge: JudgeBackend | None
    past: Callable[[Student], NegativeSampler] = InlineNegativeSampler
    fixed: Callable[[Student], Weights] | None = None
    crew: DataParallelGroup | None = None
    start: float = 0.0
    share: float = 1.0


def train(
    stage: StageContext,
    course: Course,
    checkpoints: Checkpoints,
    finished: Callable[[Student], None],
) -> Result:
    """Train, keep the best on validation, answer the test set once; `finished` gets that student.

    A result that is already there is returned as it is: the work is done once.
    """
    method = course.plan.method
    settings = course.plan.spec
    if (done := checkpoints.result(method)) is not None:
        # It may have been kept by a process that died before it could say so.
        _tell_result(stage, method, done, settings.task)
        return done
    student = course.student()
    trainer = Trainer(
        student,
        course.knowledge.lessons,
        course.plan,
        lambda tested: validation_score(tested, course.knowledge.validation, course.plan),
        course.judge,
        course.past(student) if course.plan.objective.uses_negatives else None,
        course.fixed(student) if course.fixed else None,
        course.crew,
    )
    with contextlib.closing(trainer.negative_sampler):
        before = _resume(stage, method, trainer, checkpoints)
        seconds, health = _follow(stage, course, trainer, checkpoints, before)
    trainer.restore_best()
    flops = trainer.flops
    checked = _answers(student, course.knowledge.validation, course.plan)
    test = course.knowledge.test
    tested = _answers(
        student,
        Held(tuple(t.question for t in test), tuple(t.gold for t in test), ()),
        course.plan,
    )
    # Before the result is kept: a run that is killed here does this part again.
    known = course.knowledge
    rationale_scores.keep(
        stage.store, stage.job.id, known.manifest, known.revision, settings.task, trainer
    )
    finished(student)
    cost = {"steps": trainer.step, "flops": flops, "seconds": seconds}
    result = Result(
        validation=predict.accuracy(checked),
        test=predict.accuracy(tested).model_copy(update=cost) if tested else None,
        predictions=tuple(tested),
        judge=health,
        **cost,
    )
    checkpoints.finish(method, result)
    _tell_result(stage, method, result, settings.task)
    return result


def validation_score(student: Student, held: Held, plan: TrainingSchedule) -> ValidationScore:
    """Accuracy, then minus the labels' mean cross entropy: small sets tie often."""
    right = predict.accuracy(_answers(student, held, plan)).accuracy
    texts = [
        PREDICT_PREFIX + format_question(plan.spec.task, question) for question in held.questions
    ]
    total = 0.0
    for start in range(0, len(texts), 64):
        rows = slice(start, start + 64)
        reading = student.encode(texts[rows])
        owners = range(len(texts[rows]))
        ce = student.mean_cross_entropy(reading, owners, held.labels[rows])
        total += float(ce.sum())
    return right, -total / len(texts)


def _answers(student: Student, held: Held, plan: TrainingSchedule) -> list[Prediction]:
    hyper = plan.spec.hyperparameters
    joined = plan.objective.joined
    room = hyper.max_rationale_tokens * joined + hyper.max_label_tokens
    return predict.predict(
        student,
        held.questions,
        held.golds,
        plan.spec.task,
        max_new_tokens=room,
        joined=joined,
    )


def _resume(stage: StageContext, method: str, trainer: Trainer, checkpoints: Checkpoints) -> float:
    """Go on from the newest whole state, if there is one; seconds that were spent up to it."""
    state, refused = checkpoints.load(method)
    for reason in refused:
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


def _follow(
    stage: StageContext,
    course: Course,
    trainer: Trainer,
    checkpoints: Checkpoints,
    before: float,
) -> tuple[float, dict[str, float]]:
    """Take the trainer's records: tell, save, stop when told. Returns seconds and judge health.

    What a resumed run does again it does not tell again: a step is in the event log, where the last
    one told is the cursor, and everything else has a name under which it is told once.
    """
    method, started, told = course.plan.method, time.monotonic(), 0.0
    saved = started
    known_step = _told(stage, method)
    health: dict[str, float] = {}

    def spent() -> float:
        return before + time.monotonic() - started

    def save(state: TrainerState) -> None:
        numbers = {**state.numbers, "seconds": spent()}
        oldest = checkpoints.save(method, replace(state, numbers=numbers))
        if trainer.judge is not None:
            trainer.judge.oldest_version = oldest

    # A phase may be stopped from within; nothing that `idle` refers to changes while it lasts.
    idle: TrainerState | None = None
    records = trainer.run()
    while True:
        try:
            record = next(records, None)
        except Interrupted:
            if idle is not None:
                save(idle)
            raise
        if record is None:
            break
        if stage.should_stop():
            save(capture_state(trainer))
            stage.raise_if_stopping()
        idle = capture_state(trainer) if isinstance(record, PhaseStarted) else None
        match record:
            case PhaseStarted():
                stage.emit(f"{method}: {record.name}")
            case JudgePretrained():
                _tell_judge(stage, method, 0, record)
            case StepFinished() if (
                time.monotonic() - told >= TELL_SECONDS and record.step > known_step
            ):
                told = time.monotonic()
                _tell_step(stage, course, record)
            case IterationFinished():
                health = record.judge_metrics or health
                _tell_round(stage, method, record)
        if time.monotonic() - saved >= checkpoints.seconds:
            save(capture_state(trainer))
            saved = time.monotonic()
    return spent(), {**trainer.pretrain_metrics, **health}


def _told(stage: StageContext, method: str) -> int:
    """The last step of `method` that the event log has, 0 without one."""
    events = stage.events.read(stage.job.id, None, LOOK_BACK, newest_first=True)
    steps = [e.data["step"] for e in events if e.data.get("method") == method and "loss" in e.data]
    return max(steps, default=0)


def _tell_step(stage: StageContext, course: Course, step: StepFinished) -> None:
    method = course.plan.method
    percent = 100 * (course.start + course.share * min(1.0, step.completed_fraction))
    total = (
        course.plan.steps
        if course.plan.flops is None
        else round(step.step / step.completed_fraction)
    )
    stage.report_progress(percent, step=step.step, total=total)
    data: dict[str, Any] = {
        "method": method,
        "step": step.step,
        "iteration": step.iteration,
        "gradient_norm": step.gradient_norm,
        "learning_rate": step.learning_rate,
        **step.losses,
    }
    stage.emit_metrics(f"{method}: step {step.step}, loss {step.losses['loss']:.4f}", **data)


def _tell_round(stage: StageContext, method: str, record: IterationFinished) -> None:
    data = {
        "method": method,
        "iteration": record.iteration,
        "validation": record.validation_accuracy,
    }
    mark = ", the best so far" if record.is_best else ""
    stage.emit(
        f"{method}: iteration {record.iteration}, validation {record.validation_accuracy:.3f}{mark}",
        once=f"{method}-round-{record.iteration}",
        **data,
        judge=record.judge_metrics,
    )
    if record.judge_metrics:
        _tell_judge(stage, method, record.iteration, record)


def _tell_judge(
    stage: StageContext, method: str, iteration: int, record: JudgePretrained | IterationFinished
) -> None:
    """How the judge stands that iteration `iteration` trained with; 0 is the pretrained one."""
    shown = record.histograms.model_dump(mode="json") if record.histograms else None
    told = (
        f"{record.judge_metrics['auc']:.3f}" if "auc" in record.judge_metrics else "not measurable"
    )
    stage.emit_metrics(
        f"{method}: judge of iteration {iteration}, AUC {told}",
        once=f"{method}-judge-{iteration}",
        method=method,
        iteration=iteration,
        judge=record.judge_metrics,
        histograms=shown,
    )
    if has_collapsed(record.judge_metrics):
        stage.events.append(
            stage.job.id,
            f"the judge no longer tells right from wrong (AUC {record.judge_metrics['alarm_auc']:.2f} on "
            f"{record.judge_metrics['alarm_negatives']:.0f} negatives); "
            "try `discriminator.loss: bce`, more `pretrain_steps` or a lower `learning_rate`",
            level="warn",
            data={"judge": record.judge_metrics},
            once=f"{method}-collapsed-{iteration}",
        )


def _tell_result(stage: StageContext, method: str, result: Result, task: TaskSpec) -> None:
    shown: Accuracy = result.test or result.validation
    name = "test" if result.test else "validation"
    stage.emit(
        f"{method}: {name} accuracy {shown.accuracy:.3f} "
        f"[{shown.low:.3f}, {shown.high:.3f}], n = {shown.n}",
        once=f"{method}-result",
        method=method,
        accuracy=shown.accuracy,
        unparseable=sum(p.answer is None for p in result.predictions),
        answer_kind=task.answer.value,
    )
