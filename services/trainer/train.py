"""One student from its base to its test answers, resumable at every iteration."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from qcrd.method import evaluation
from qcrd.method.checkpoints import capture, restore
from qcrd.method.judge import collapsed
from qcrd.method.prompts import PREDICT, question_text
from qcrd.method.schedule import Plan
from qcrd.method.slates import SCORING_TOKENS
from qcrd.method.students import Student
from qcrd.method.training import JudgePort, Phase, Round, Score, Step, Trainer
from qcrd.records import Accuracy, Prediction, TaskSpec
from qcrd.runtime.stage import StageContext
from services.trainer.checkpoints import Checkpoints, Result
from services.trainer.knowledge import Held, Knowledge

TELL_SECONDS = 1.0
"""At most one progress write and one metrics event per second, however fast the steps are."""


@dataclass(frozen=True)
class Course:
    """One student's training within a job; `share` of the job's training, from `start` on."""

    plan: Plan
    knowledge: Knowledge
    student: Callable[[], Student]
    judge: JudgePort | None
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
    if (done := checkpoints.result(method)) is not None:
        return done
    student = course.student()
    settings = course.plan.spec
    trainer = Trainer(
        student,
        course.knowledge.lessons,
        course.plan,
        lambda tested: validation_score(tested, course.knowledge.validation, course.plan),
        course.judge,
    )
    if (state := checkpoints.load(method)) is not None:
        restore(trainer, state)
        stage.say(f"{method}: resumed after iteration {trainer.iteration}")
    seconds, health = _follow(stage, course, trainer, checkpoints)
    trainer.restore_best()
    flops = trainer.flops
    checked = _answers(student, course.knowledge.validation, course.plan)
    test = course.knowledge.test
    tested = _answers(
        student,
        Held(tuple(t.question for t in test), tuple(t.gold for t in test), ()),
        course.plan,
    )
    finished(student)
    cost = {"steps": trainer.step, "flops": flops, "seconds": seconds}
    result = Result(
        validation=evaluation.accuracy(checked),
        test=evaluation.accuracy(tested).model_copy(update=cost) if tested else None,
        predictions=tuple(tested),
        judge=health,
        **cost,
    )
    checkpoints.finish(method, result)
    _tell_result(stage, method, result, settings.task)
    return result


def validation_score(student: Student, held: Held, plan: Plan) -> Score:
    """Accuracy, then minus the labels' mean cross entropy: small sets tie often."""
    right = evaluation.accuracy(_answers(student, held, plan)).accuracy
    texts = [PREDICT + question_text(plan.spec.task, question) for question in held.questions]
    total = 0.0
    for start in range(0, len(texts), 64):
        rows = slice(start, start + 64)
        reading = student.read(texts[rows])
        owners = range(len(texts[rows]))
        ce = student.score(reading, owners, held.labels[rows], max_tokens=SCORING_TOKENS)
        total += float(ce.sum())
    return right, -total / len(texts)


def _answers(student: Student, held: Held, plan: Plan) -> list[Prediction]:
    hyper = plan.spec.hyperparameters
    joined = plan.objective.joined
    room = hyper.max_rationale_tokens * joined + hyper.max_label_tokens
    return evaluation.predict(
        student,
        held.questions,
        held.golds,
        plan.spec.task,
        max_new_tokens=room,
        joined=joined,
    )


def _follow(
    stage: StageContext, course: Course, trainer: Trainer, checkpoints: Checkpoints
) -> tuple[float, dict[str, float]]:
    """Take the trainer's records: tell, save, stop when told. Returns seconds and judge health."""
    method, started, told = course.plan.method, time.monotonic(), 0.0
    saved = started
    health: dict[str, float] = {}
    for record in trainer.run():
        stage.check()
        match record:
            case Phase():
                stage.say(f"{method}: {record.name}")
            case Step() if time.monotonic() - told >= TELL_SECONDS:
                told = time.monotonic()
                _tell_step(stage, course, record)
            case Round():
                if time.monotonic() - saved >= checkpoints.seconds:
                    checkpoints.save(method, capture(trainer))
                    saved = time.monotonic()
                health = record.judge or health
                _tell_round(stage, method, record)
    return time.monotonic() - started, {**trainer.pretrained, **health}


def _tell_step(stage: StageContext, course: Course, step: Step) -> None:
    method = course.plan.method
    percent = 100 * (course.start + course.share * min(1.0, step.done))
    total = course.plan.steps if course.plan.flops is None else round(step.number / step.done)
    stage.progress(percent, step=step.number, total=total)
    stage.measure(
        f"{method}: step {step.number}, loss {step.parts['loss']:.4f}",
        method=method,
        step=step.number,
        iteration=step.iteration,
        gradient_norm=step.norm,
        learning_rate=step.rate,
        **step.parts,
    )


def _tell_round(stage: StageContext, method: str, record: Round) -> None:
    data = {"method": method, "iteration": record.iteration, "validation": record.validation}
    mark = ", the best so far" if record.better else ""
    stage.say(
        f"{method}: iteration {record.iteration}, validation {record.validation:.3f}{mark}",
        **data,
        judge=record.judge,
    )
    if record.judge and collapsed(record.judge):
        stage.events.append(
            stage.job.id,
            f"the judge no longer tells right from wrong (AUC {record.judge.get('auc', 0):.2f}); "
            "try `discriminator.loss: bce`, more `pretrain_steps` or a lower `learning_rate`",
            level="warn",
            data={"judge": record.judge},
        )


def _tell_result(stage: StageContext, method: str, result: Result, task: TaskSpec) -> None:
    shown: Accuracy = result.test or result.validation
    name = "test" if result.test else "validation"
    stage.say(
        f"{method}: {name} accuracy {shown.accuracy:.3f} "
        f"[{shown.low:.3f}, {shown.high:.3f}], n = {shown.n}",
        method=method,
        accuracy=shown.accuracy,
        unparseable=sum(p.answer is None for p in result.predictions),
        answer_kind=task.answer.value,
    )
