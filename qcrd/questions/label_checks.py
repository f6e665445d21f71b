"""Checks of labels: those of the task against each other, and those of a file against the task."""

from __future__ import annotations

from collections.abc import Iterable

from qcrd.errors import Invalid
from qcrd.method.answer_reading.characters import fold
from qcrd.method.answer_reading.numbers.reading import is_time_or_date
from qcrd.method.answer_reading.option_marks import MAX_OPTIONS
from qcrd.method.answer_reading.options import find_same_labels
from qcrd.method.answers import canonical
from qcrd.questions.rows import QuestionRow
from qcrd.records.rationales import Question
from qcrd.records.specs.spec import JobSpec
from qcrd.records.specs.task import AnswerKind, TaskSpec

MAX_SHOWN_CHARS = 80
NO_QUESTION = Question(id="", text="")
"""For tasks whose options are the task's own."""


def check_task_labels(spec: JobSpec) -> None:
    """`Invalid` for labels that are one answer, or none: the vote could not tell them apart."""
    task = spec.settings.task
    if task.answer is not AnswerKind.LABEL:
        return
    if (same := find_same_labels(task.labels)) is not None:
        raise _make_label_error(
            spec,
            task.labels.index(same[1]),
            f"{_shorten(same[0])} and {_shorten(same[1])} are one answer: case, articles, quotes "
            "and punctuation around an answer do not count",
        )
    for index, label in enumerate(task.labels):
        if (problem := _find_problem(label, task)) is not None:
            raise _make_label_error(spec, index, problem)


def _make_label_error(spec: JobSpec, index: int, problem: str) -> Invalid:
    return Invalid(
        f"`method.{spec.method}.task.labels`: {problem}; write labels as different words",
        param=f"method.{spec.method}.task.labels.{index}",
        code="same_label",
    )


def _find_problem(label: str, task: TaskSpec) -> str | None:
    if "\n" in label or canonical(label, task, NO_QUESTION) is None or not fold(label):
        return f"{_shorten(label)} has nothing that an answer could be told by"
    return None


def check_row(row: QuestionRow, task: TaskSpec, param: str) -> None:
    """`Invalid`, with the line, for a row whose choices or label do not fit the task."""
    if task.answer is AnswerKind.CHOICE and len(row.question.choices) > MAX_OPTIONS:
        raise row.make_error(
            f"`choices` has {len(row.question.choices):,} options, and marks of one or two letters "
            f"are enough for {MAX_OPTIONS}: ask in parts (in `{param}`)",
            code="too_many_choices",
            param=param,
        )
    if task.answer is AnswerKind.CHOICE and not row.question.choices:
        raise row.make_error(
            f'`choices` is missing: answer kind `choice` needs "choices": […] (in `{param}`)',
            code="missing_choices",
            param=param,
        )
    label = row.question.label
    if label is not None and canonical(label, task, row.question) is None:
        raise row.make_error(
            f"label {_shorten(label)} is not {_describe_expected(label, task, row)} (in `{param}`)",
            code="invalid_label",
            param=param,
        )


def _describe_expected(label: str, task: TaskSpec, row: QuestionRow) -> str:
    match task.answer:
        case AnswerKind.NUMBER if is_time_or_date(label):
            return (
                "a number or an arithmetic expression; a time of day or a date is no number: "
                "use `answer: text`"
            )
        case AnswerKind.NUMBER:
            return "a number or an arithmetic expression"
        case AnswerKind.LABEL:
            return f"one of the task's labels: {format_names(task.labels)}"
        case AnswerKind.CHOICE:
            return (
                "one of the question's choices: give an option's text or its letter, such as "
                f'"(a)" for the first of {format_names(row.question.choices)}'
            )
        case AnswerKind.MATH:
            return "a mathematical expression, set, interval or point that has a sure reading"
        case AnswerKind.TEXT:
            return "a word: it has only articles, quotes or punctuation"


def format_names(names: Iterable[str]) -> str:
    quoted = [repr(name) for name in names]
    return ", ".join(quoted[:20]) + (", …" if len(quoted) > 20 else "") or "none"


def _shorten(label: str | None) -> str:
    return repr((label or "")[:MAX_SHOWN_CHARS])
