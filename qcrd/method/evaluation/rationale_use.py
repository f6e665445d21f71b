"""Whether a student's label follows from the rationale that it gives for it (METHOD 6).

A two-task student answers under one prefix and explains under another, so nothing ties the two but
its training. `docs/decisions/0020-label-given-its-own-rationale.md` says why it is asked like this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qcrd.method.answers import canonical, parse_output
from qcrd.method.prompts import EXPLAIN_PREFIX, PREDICT_PREFIX, format_question
from qcrd.method.student.base import Student
from qcrd.records.rationales import Prediction, Question, RationaleUse
from qcrd.records.specs.task import TaskSpec


def measure_rationale_use(
    student: Student,
    questions: Sequence[Question],
    predictions: Sequence[Prediction],
    task: TaskSpec,
    *,
    max_rationale_tokens: int,
    max_label_tokens: int,
    check: Callable[[], None] = lambda: None,
) -> RationaleUse:
    """Explain each question greedily, then answer it under the predict prefix with that rationale
    on the lines below it; a question that is too long for it is not asked. `predictions` are the
    answers without a rationale. None of it is in the student's `flops` and `tokens`; `check` runs
    before each batch."""
    texts = [format_question(task, question) for question in questions]
    with student.uncounted():
        rationales = student.generate(
            [EXPLAIN_PREFIX + text for text in texts],
            max_new_tokens=max_rationale_tokens,
            check=check,
        )
        prompts = [
            f"{PREDICT_PREFIX}{text}\n{rationale}"
            for text, rationale in zip(texts, rationales, strict=True)
        ]
        given = [i for i, prompt in enumerate(prompts) if not student.is_cut(prompt)]
        labels = student.generate(
            [prompts[i] for i in given], max_new_tokens=max_label_tokens, check=check
        )
    with_it = [
        (canonical(label, task, questions[i]), predictions[i])
        for i, label in zip(given, labels, strict=True)
    ]
    outputs = [
        parse_output(rationale, task, question)
        for rationale, question in zip(rationales, questions, strict=True)
    ]
    named = [
        (output.answer, prediction)
        for output, prediction in zip(outputs, predictions, strict=True)
        if output is not None
    ]
    return RationaleUse(
        questions=len(questions),
        given=len(with_it),
        given_right=_count_right(with_it),
        right_without=sum(prediction.right for _, prediction in with_it),
        given_same=_count_same(with_it),
        named=len(named),
        named_same=_count_same(named),
        named_right=_count_right(named),
    )


def _count_right(answers: Sequence[tuple[str | None, Prediction]]) -> int:
    return sum(answer == prediction.gold for answer, prediction in answers)


def _count_same(answers: Sequence[tuple[str | None, Prediction]]) -> int:
    """Answers that are the label given without a rationale; two that are none are not the same."""
    return sum(answer is not None and answer == prediction.answer for answer, prediction in answers)
