"""Warnings about a job's data, sent before anything is generated, and by `qcrd init` before a job
is there."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

from qcrd.method.answers import canonical, comparison_id
from qcrd.questions.duplicates import DuplicateIndex
from qcrd.questions.labelling import Contradiction, OutputsByQuestion, is_cut_trace
from qcrd.questions.rows import QuestionRow
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.task import AnswerKind

MAX_SHOWN_LABELS = 20
MAX_SHOWN_CHARS = 200


class DataWarning(NamedTuple):
    """`key` names the kind: a job is told each once. `data` are the figures."""

    message: str
    key: str
    data: dict[str, Any]


def iter_file_warnings(
    spec: MethodSpec,
    training: Collection[QuestionRow],
    held_out: Mapping[str, Collection[QuestionRow]],
) -> Iterator[DataWarning]:
    """Of labels that no training question has, of questions that are both trained on and held out,
    and of templates that lack a column."""
    yield from _find_unseen_labels(spec, training)
    for name, rows in held_out.items():
        if overlap := count_shared_questions(training, rows):
            message = f"{overlap} {name} questions are also training questions"
            yield DataWarning(message, f"overlap-{name}", {"shared": overlap})
    yield from _find_twins(training)
    yield from _find_half_questions(chain(training, *held_out.values()))


def _find_unseen_labels(spec: MethodSpec, training: Iterable[QuestionRow]) -> Iterator[DataWarning]:
    """The student never learns them."""
    unseen = _list_unseen_labels(spec, training)
    if not unseen:
        return
    shown = ", ".join(repr(label) for label in unseen[:MAX_SHOWN_LABELS])
    rest = ", …" if len(unseen) > MAX_SHOWN_LABELS else ""
    yield DataWarning(
        f"no training question has the label {shown}{rest}: the student never sees "
        f"{'it' if len(unseen) == 1 else 'them'}; add questions, or take the label out of the task",
        "unseen-labels",
        {"unseen_labels": unseen[:MAX_SHOWN_LABELS], "unseen": len(unseen)},
    )


def _find_twins(rows: Iterable[QuestionRow]) -> Iterator[DataWarning]:
    """Two questions that an uncased reader takes for one may be two, in code and in formulas; with
    two labels they are more often a mistake."""
    index, count, first_pair = DuplicateIndex(), 0, ""
    for row in rows:
        checksum = zlib.crc32((row.question.label or "").encode())
        compared = _get_comparison_id(row)
        first = index.setdefault(compared, row.line_number, checksum)
        if first != row.line_number and not index.has_checksum(compared, checksum):
            count += 1
            first_pair = first_pair or (
                f"{row.unit}s {first} and {row.line_number}, "
                f"{_shorten(row.question.text)!r} with the label {row.question.label!r}"
            )
    if count:
        yield DataWarning(
            f"{count} training questions differ from another one in white space, case or the form "
            f"of characters alone and have another label (first: {first_pair}): if they are one "
            "question, remove all but one",
            "twin-questions",
            {"twins": count},
        )


def _find_half_questions(rows: Iterable[QuestionRow]) -> Iterator[DataWarning]:
    lacking = (row for row in rows if row.lacks)
    if (first := next(lacking, None)) is not None:
        count = 1 + sum(1 for _ in lacking)
        yield DataWarning(
            f"{count} questions lack a column of `task.fields.question` and are asked "
            f"without it (first: {first.unit} {first.line_number}, `{first.lacks[0]}`)",
            "half-questions",
            {"lacking": count},
        )


def find_unused_outputs(unused: int, method: str) -> Iterator[DataWarning]:
    """Of outputs in so many lines of the training file of a job that asks its teacher all the
    same."""
    if unused:
        yield DataWarning(
            f"{unused} lines of the training file have outputs, which are not used: the teacher is "
            f"asked. `method.{method}.rationales.import` with this file's id takes them instead",
            "unused-outputs",
            {"unused": unused},
        )


def find_contradictions(
    rows: Iterable[QuestionRow], first: Contradiction | None, count: int
) -> Iterator[DataWarning]:
    """Of `count` rationales, with the `first`, that end in another answer than the label that they
    were written to explain."""
    if first is None:
        return
    row = next((row for row in rows if row.question.id == first.question_id), None)
    place = "" if row is None else f"{row.unit} {row.line_number}: "
    yield DataWarning(
        f"{count} rationales end in another answer than the label of their line, and are "
        f"positives of the label all the same (first: {place}{_shorten(first.output)!r} answers "
        f"{first.answer!r}, the label is {first.label!r}): correct them, or leave them out",
        "contradicting-rationales",
        {"contradicting": count},
    )


def find_cut_traces(
    rows: Iterable[QuestionRow], outputs: OutputsByQuestion, spec: MethodSpec
) -> Iterator[DataWarning]:
    """Of reasoning traces that are longer than a student's rationale."""
    cut = given = 0
    for row in rows:
        texts = outputs.get(row.question.id, ())
        given += len(texts)
        cut += sum(is_cut_trace(text, row.question, spec) for text in texts)
    if cut:
        limit = spec.hyperparameters.max_rationale_tokens
        yield DataWarning(
            f"{cut} of {given} outputs are reasoning longer than a rationale of {limit} "
            "tokens and are cut to their last whole sentences: raise "
            "`hyperparameters.max_rationale_tokens`, or take the reply's own explanation "
            "(`rationales: {from: explanation}`)",
            "cut-traces",
            {"cut_traces": cut, "outputs": given},
        )


def _shorten(text: str) -> str:
    """The end, where the answer is."""
    return text if len(text) <= MAX_SHOWN_CHARS else f"…{text[-MAX_SHOWN_CHARS:]}"


def count_shared_questions(
    training: Collection[QuestionRow], held_out: Collection[QuestionRow]
) -> int:
    """How many of `held_out` are training questions too, but for white space, case and the form of
    characters; paraphrases are not counted."""
    held_out_ids, shared = DuplicateIndex(), DuplicateIndex()
    for row in held_out:
        held_out_ids.setdefault(_get_comparison_id(row), 1)
    for row in training if len(held_out_ids) else ():
        if (compared := _get_comparison_id(row)) in held_out_ids:
            shared.setdefault(compared, 1)
    return sum(_get_comparison_id(row) in shared for row in held_out) if len(shared) else 0


def _get_comparison_id(row: QuestionRow) -> str:
    return comparison_id(row.question.text, row.question.choices)


def _list_unseen_labels(spec: MethodSpec, training: Iterable[QuestionRow]) -> list[str]:
    if spec.task.answer is not AnswerKind.LABEL or spec.label_mode != "gold":
        return []
    seen = {
        canonical(row.question.label, spec.task, row.question)
        for row in training
        if row.question.label is not None
    }
    return [label for label in spec.task.labels if label not in seen]
