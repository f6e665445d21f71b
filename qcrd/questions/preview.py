"""A look at what a job would make of its files, by the code that makes it: without a server, and
before anything is spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO

from qcrd.errors import Invalid
from qcrd.method.prompts import EXPLAIN_PREFIX, PREDICT_PREFIX, format_question
from qcrd.method.training.objectives import get_objective
from qcrd.questions import labelling
from qcrd.questions.data_warnings import (
    DataWarning,
    find_contradictions,
    find_unused_outputs,
    iter_file_warnings,
)
from qcrd.questions.imported_outputs import match_outputs
from qcrd.questions.label_checks import check_task_labels
from qcrd.questions.readable_outputs import check_readable
from qcrd.questions.row_checks import check_enough_questions, check_rows, needs_labels
from qcrd.questions.rows import QuestionRow, RowBuilder, check_not_empty
from qcrd.records.rationales import RationaleCounts, RationaleItem
from qcrd.records.specs.spec import JobSpec, MethodName
from qcrd.records.students.prompt_format import JOINED_ANSWER_PREFIX
from qcrd.runtime.data_files.detect import read_records

MAX_READ_ROWS = 5_000
"""Questions whose outputs are read, at some 5 ms each; all rows of a file are checked."""
MAX_KEPT_ROWS = 200_000
"""Questions of a file that are compared with others: of larger files nothing is warned."""

OpenFile = Callable[[str], AbstractContextManager[BinaryIO]]
"""Opens a file by the name that the spec has for it."""


@dataclass(frozen=True)
class FileReading:
    """What a file has: its first questions whole, of the others their number."""

    rows: tuple[QuestionRow, ...]
    records: int
    questions: int
    labelled: int
    told: tuple[str, ...]
    """What was done to read it, a sentence each."""


@dataclass(frozen=True)
class Preview:
    """`counts` are those of the imported outputs of the first `MAX_READ_ROWS` questions, None where
    none are imported. `first` is a question as the student reads it, with what it learns;
    `depends_on_base`: where the base is a decoder it learns otherwise, by default."""

    files: dict[str, FileReading]
    counts: RationaleCounts | None
    contradicting: int
    first: tuple[tuple[str, str], ...]
    depends_on_base: bool
    warnings: tuple[str, ...]


def preview_job(
    spec: JobSpec, open_file: OpenFile, *, max_read_rows: int = MAX_READ_ROWS
) -> Preview:
    """`Invalid` for what a gateway refuses at creation, or a job as soon as it reads outputs."""
    check_task_labels(spec)
    files = {
        param: _read_named_file(spec, param, name, open_file)
        for param, name in _iter_held_files(spec)
    }
    training = files["training_file"]
    check_enough_questions(
        training.questions, spec.settings, own_validation=spec.validation_file is not None
    )
    held_out = {
        param.removesuffix("_file"): list(each.rows)
        for param, each in files.items()
        if param != "training_file"
    }
    warnings: list[DataWarning] = []
    if all(each.questions <= MAX_KEPT_ROWS for each in files.values()):
        warnings += iter_file_warnings(spec.settings, training.rows, held_out)
    items, counts, contradicting = _read_outputs(
        spec, training, training.rows[:max_read_rows], open_file, warnings
    )
    return Preview(
        files=files,
        counts=counts,
        contradicting=contradicting,
        first=tuple(_show_first(spec, training.rows[0], items[0] if items else None)),
        depends_on_base="answers" not in spec.settings.student.model_fields_set
        and get_objective(spec.method, spec.settings.student.answers).max_positives != 0,
        warnings=tuple(each.message for each in warnings),
    )


def _iter_held_files(spec: JobSpec) -> Iterator[tuple[str, str]]:
    for param in ("training_file", "validation_file", "test_file"):
        if (name := getattr(spec, param)) is not None:
            yield param, name


def _read_named_file(spec: JobSpec, param: str, name: str, open_file: OpenFile) -> FileReading:
    """What is wrong with a line does not say of which file it is."""
    try:
        return _read_file(spec, param, name, open_file)
    except Invalid as error:
        if name in error.message or param in error.message:
            raise
        raise type(error)(f"{name}: {error.message}", param=param, code=error.code) from error


def _read_file(spec: JobSpec, param: str, name: str, open_file: OpenFile) -> FileReading:
    task, builder = spec.settings.task, RowBuilder(spec.settings.task.fields)
    kept: list[QuestionRow] = []
    questions = labelled = 0
    with open_file(name) as data:
        rows = (
            row
            for record in read_records(data)
            for row in builder.build(record)
            if row.repeats is None
        )
        for row in check_rows(rows, task, param, needs_label=needs_labels(spec.settings, param)):
            questions += 1
            labelled += row.question.label is not None
            if len(kept) < MAX_KEPT_ROWS:
                kept.append(row)
    check_not_empty(builder.summary)
    told = tuple(builder.summary.describe())
    return FileReading(tuple(kept), builder.summary.records, questions, labelled, told)


def _read_outputs(
    spec: JobSpec,
    training: FileReading,
    rows: Sequence[QuestionRow],
    open_file: OpenFile,
    warnings: list[DataWarning],
) -> tuple[list[RationaleItem], RationaleCounts | None, int]:
    """The rationales that the job would make of the imported outputs of `rows`; `warnings` grows by
    theirs."""
    name = spec.settings.rationales.import_file
    if spec.method is MethodName.FINETUNE and not spec.settings.baselines:
        return [], None, 0
    if name is None:
        warnings += find_unused_outputs(
            sum(bool(row.outputs) for row in training.rows), spec.method
        )
        return [], None, 0
    with open_file(name) as data:
        imported = list(_iter_imported(spec, data, {row.question.id for row in rows}))
    matched = match_outputs(imported, rows, (), spec.settings)
    contradictions: list[labelling.Contradiction] = []
    items = [
        labelling.build_item(
            row.question,
            matched.training.get(row.question.id, ()),
            spec.settings,
            matched.readings.get(row.question.id, ()),
            contradictions,
        )
        for row in rows
    ]
    counts = labelling.count_outcomes(items, reused=0)
    check_readable(spec, rows, matched.training, counts)
    warnings += find_contradictions(
        rows, contradictions[0] if contradictions else None, len(contradictions)
    )
    return items, counts, len(contradictions)


def _iter_imported(spec: JobSpec, data: BinaryIO, wanted: set[str]) -> Iterator[QuestionRow]:
    """The rows of the wanted questions, in whatever order the file has them."""
    builder = RowBuilder(spec.settings.task.fields)
    for record in read_records(data):
        for row in builder.build(record):
            if row.question.id in wanted:
                yield row


def _show_first(
    spec: JobSpec, row: QuestionRow, item: RationaleItem | None
) -> Iterator[tuple[str, str]]:
    """What the student is asked, each with what it learns to say."""
    asked = format_question(spec.settings.task, row.question)
    label = item.label if item is not None else row.question.label
    answer = label or "the vote of the teacher"
    objective = get_objective(spec.method, spec.settings.student.answers)
    positives = () if item is None else item.positives
    rationale = positives[0].text if positives else "an explanation of the teacher"
    both = f"{rationale} {JOINED_ANSWER_PREFIX} {answer}"
    if objective.predicts:
        yield f"{PREDICT_PREFIX}{asked}", both if objective.joined else answer
    if objective.reasons:
        yield f"{EXPLAIN_PREFIX}{asked}", both
    elif positives and objective.max_positives != 0:
        yield f"{EXPLAIN_PREFIX}{asked}", positives[0].text
