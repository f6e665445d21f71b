"""What answering takes of the published student, on the machine that trained it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from qcrd.records.reports.serving import AnswerTimes, CostReport, StudentServing, TeacherServing
from services.trainer.data.training_dataset import LabeledQuestions
from services.trainer.results.measuring import Asker


@dataclass(frozen=True)
class ServingLimits:
    """Questions that are asked one after another, and the seconds after which no more are."""

    questions: int = 32
    seconds: float = 5.0


def measure_serving(
    asker: Asker,
    labeled: LabeledQuestions,
    batched_seconds: float,
    limits: ServingLimits = ServingLimits(),
) -> StudentServing | None:
    """`batched_seconds` are what all questions took in batches. None without a question. Every rank
    takes part, and the main one says when it is enough."""
    student, n = asker.student, len(labeled.questions)
    if not n:
        return None
    started, seconds = time.monotonic(), list[float]()
    for place in range(min(limits.questions, n)):
        one = LabeledQuestions((labeled.questions[place],), (labeled.golds[place],), ())
        before = time.monotonic()
        asker.answer(one)
        seconds.append(time.monotonic() - before)
        if student.ranks.run_on_main(lambda: time.monotonic() - started > limits.seconds):
            break
    return StudentServing(
        times=AnswerTimes.measure(
            seconds, concurrency=1, per_second=len(seconds) / max(1e-9, sum(seconds))
        ),
        batched_per_second=n / max(1e-9, batched_seconds),
        device=student.device.type,
        processes=student.ranks.size,
        weight_bytes=sum(
            weight.numel() * weight.element_size() for weight in student.model.parameters()
        ),
    )


def compute_costs(
    teacher: TeacherServing | None,
    student: StudentServing | None,
    *,
    training_seconds: float,
    machine_cost_per_hour: float | None,
) -> CostReport | None:
    """None where the teacher's price is not known or it answered no test question, and where the
    student was not measured."""
    if teacher is None or student is None or not teacher.questions:
        return None
    if teacher.cost is None or teacher.outputs_cost is None:
        return None
    per_second = (machine_cost_per_hour or 0.0) / 3600
    by_teacher = 1000 * teacher.cost / teacher.questions
    by_student = 1000 * per_second / student.batched_per_second
    run = teacher.outputs_cost + training_seconds * per_second
    saved = (by_teacher - by_student) / 1000
    return CostReport(
        currency=teacher.currency or "USD",
        counts_machine=machine_cost_per_hour is not None,
        teacher_per_1000=by_teacher,
        student_per_1000=by_student,
        run=run,
        pays_after=math.ceil(run / saved) if saved > 0 else None,
    )
