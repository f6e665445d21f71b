"""What a report says to do, what answering costs, and how classes are counted."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from qcrd.method.evaluation.statistics import compare_methods, wilson_interval
from qcrd.records.job import Report
from qcrd.records.rationales import Prediction
from qcrd.records.reports.serving import AnswerTimes, CostReport, StudentServing, TeacherServing
from services.trainer.results.advice import give_advice
from services.trainer.results.classes import count_classes
from services.trainer.results.report import build_report
from services.trainer.results.serving import compute_costs
from tests.unit.trainer.test_report import JOB, RIGHT, TESTED, known, made, result

BASE = made().model_copy(update={"comparisons": (), "against_teacher": None})
TIMES = AnswerTimes(requests=10, concurrency=8, p50=1.0, p95=2.0, per_second=4.0)
STUDENT = StudentServing(times=TIMES, batched_per_second=20.0, device="cpu", weight_bytes=4)
TEACHER = TeacherServing(times=TIMES, questions=100, cost=0.5, outputs_cost=1.0, currency="EUR")


def make_report(student: int, n: int = 200, *, teacher: int | None = None, **rows: int) -> Report:
    """Of `n` questions the student has the first `student` right; each row likewise."""

    def right(count: int) -> list[bool]:
        return [place < count for place in range(n)]

    def compare(name: str, count: int) -> Any:
        return compare_methods(("qcrd", right(student)), (name, right(count)), seed=0)

    return BASE.model_copy(
        update={
            "test": {
                "majority_class": wilson_interval(n // 10, n),
                "qcrd": wilson_interval(student, n),
            },
            "comparisons": tuple(compare(name, count) for name, count in rows.items()),
            "against_teacher": None if teacher is None else compare("teacher", teacher),
        }
    )


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (make_report(22), "Do not use this student: 0.110 of 200 test questions"),
        (
            make_report(2),
            "Do not use this student: 0.010 of 200 test questions [0.003, 0.036] is no",
        ),
        (make_report(150, finetune=170), "Use plain finetuning: it answers more questions right"),
        (make_report(150, finetune=151), "Finetuning does as well here as far as 200 questions"),
        (
            make_report(150, finetune_equal_compute=151, finetune=100),
            "Finetuning does as well here as far as 200 questions can tell (-0.5 points",
        ),
        (
            make_report(150, finetune=120, teacher=151),
            "Use this student in its teacher's place: they cannot be told apart",
        ),
        (
            make_report(150, finetune=120, teacher=100),
            "Use this student in its teacher's place: it answers more questions right (+25.0",
        ),
        (
            make_report(150, finetune=120, teacher=190),
            "Use this student where its teacher is too slow or too dear",
        ),
        (make_report(150, finetune=120), "Use this student if its accuracy is enough"),
    ],
)
def test_the_advice_follows_what_was_measured(report: Report, told: str) -> None:
    assert give_advice(report, "qcrd").startswith(told)


def test_it_says_what_was_not_measured() -> None:
    alone = give_advice(make_report(150, teacher=150), "qcrd")
    assert "No finetuned student was trained beside it" in alone
    untested = BASE.model_copy(update={"test": {}})
    assert "name one in `test_file`" in give_advice(untested, "qcrd")
    assert made().advice == give_advice(made(), "qcrd")


def test_it_says_how_much_faster_the_student_answers() -> None:
    report = make_report(150, finetune=120, teacher=150)
    timed = report.model_copy(update={"student_serving": STUDENT, "teacher_serving": TEACHER})
    told = "machine gives 5 times as many answers a second as the teacher in this run."
    assert told in give_advice(timed, "qcrd")
    assert "a second" not in give_advice(report, "qcrd")
    # What was asked for its times goes first, and few requests say nothing.
    few = AnswerTimes(requests=2, concurrency=8, p50=1.0, p95=2.0, per_second=4.0)
    hurried = TIMES.model_copy(update={"per_second": 10.0, "concurrency": 16})
    for teacher, told in (
        (TEACHER.model_copy(update={"timed": (few, hurried)}), "gives 2 times"),
        (TEACHER.model_copy(update={"times": few}), "place: they cannot be told apart"),
    ):
        advice = give_advice(timed.model_copy(update={"teacher_serving": teacher}), "qcrd")
        assert told in advice
        assert ("a second" in advice) == ("gives" in told)


def test_no_row_is_recommended_that_is_no_better_than_guessing() -> None:
    report = make_report(150, finetune=21, teacher=150)
    rows = report.test | {"finetune": wilson_interval(21, 200)}
    advice = give_advice(report.model_copy(update={"test": rows}), "qcrd")
    assert advice.startswith("Use this student in its teacher's place")
    assert "Plain finetuning is no better than the most frequent label" in advice
    alone = make_report(21).model_copy(
        update={"test": {**make_report(21).test, "finetune": wilson_interval(21, 200)}}
    )
    assert give_advice(alone, "finetune").startswith("Do not use this student")


def test_a_run_pays_after_what_its_answers_save() -> None:
    """5 EUR a thousand of the teacher; of a machine at 3.6 EUR an hour, 20 answers a second, .05.
    1 EUR for the teacher's outputs and 1,000 s of that machine: 2 EUR in all."""
    paid = {"training_seconds": 1000.0}
    costs = compute_costs(TEACHER, STUDENT, **paid, machine_cost_per_hour=3.6)
    assert costs is not None
    assert (costs.currency, costs.counts_machine) == ("EUR", True)
    assert costs.teacher_per_1000 == pytest.approx(5)
    assert costs.student_per_1000 == pytest.approx(0.05)
    assert costs.run == pytest.approx(2)
    assert costs.pays_after == math.ceil(2000 / 4.95)
    assert "earned back after 405 questions" in costs.statement
    without = compute_costs(TEACHER, STUDENT, **paid, machine_cost_per_hour=None)
    assert without is not None
    assert (without.run, without.student_per_1000, without.pays_after) == (1, 0, 200)
    assert "without the machine" in without.statement
    dear = compute_costs(TEACHER, STUDENT, **paid, machine_cost_per_hour=3600)
    assert dear is not None
    assert dear.pays_after is None
    assert "never earns back" in dear.statement
    free = TEACHER.model_copy(update={"outputs_cost": 0.0})
    nothing = compute_costs(free, STUDENT, training_seconds=9.0, machine_cost_per_hour=None)
    assert nothing is not None
    assert "the run cost 0; without the machine" in nothing.statement
    unpriced = TEACHER.model_copy(update={"cost": None})
    assert compute_costs(unpriced, STUDENT, **paid, machine_cost_per_hour=1) is None
    assert isinstance(costs, CostReport)


def test_percentiles_are_nearest_ranks() -> None:
    times = AnswerTimes.measure([*range(20, 0, -1)], concurrency=1, per_second=1)
    assert (times.requests, times.p50, times.p95) == (20, 10, 19)
    one = AnswerTimes.measure([3.0], concurrency=1, per_second=1)
    assert (one.p50, one.p95) == (3, 3)


def predict(gold: str, answer: str | None) -> Prediction:
    return Prediction(question_id="q", text="", answer=answer, gold=gold, right=answer == gold)


def test_classes_are_counted_with_what_they_are_taken_for() -> None:
    answers = [("a", "a"), ("a", "b"), ("a", "b"), ("a", None), ("b", "b"), ("b", "b")]
    found = count_classes([predict(*pair) for pair in answers])
    assert found is not None
    assert [(r.label, r.n, r.right, r.answered) for r in found.classes] == [
        ("a", 4, 1, 1),
        ("b", 2, 2, 4),
    ]
    assert [(c.gold, c.answer, c.n) for c in found.confusions] == [("a", "b", 2), ("a", None, 1)]


def test_numbers_are_no_classes() -> None:
    assert count_classes([predict(str(i), "1") for i in range(30)]) is None
    assert count_classes([predict("a", "a")] * 5) is None
    assert count_classes([]) is None


def test_questions_that_only_the_teacher_answers_rightly_are_counted() -> None:
    asked = known(TESTED)
    test = tuple(
        item.model_copy(update={"teacher_answer": "3", "teacher_asked": place > 3})
        for place, item in enumerate(asked.test)
    )
    results = {name: result(name, TESTED) for name in RIGHT}
    report = build_report(JOB, replace(asked, test=test), results)
    assert report.teacher_only == 1  # the last one
    assert made().teacher_only is None
    assert report.leak is not None
    assert report.leak.n_near == 1  # the one that repeats a training question word for word
