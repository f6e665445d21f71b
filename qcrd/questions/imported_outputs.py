"""Teacher outputs that were already paid for, matched to questions by their text and choices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from qcrd.method.answers import canonical, parse_output, read_last_value
from qcrd.method.run_on import (
    Places,
    Reading,
    cut_at_mark,
    cut_at_stop,
    find_next_question_mark,
)
from qcrd.questions.labelling import AnswerReading, OutputsByQuestion
from qcrd.questions.rows import QuestionRow
from qcrd.records.rationales import Question
from qcrd.records.specs.rationale_spec import DEFAULT_STOP, RationaleSpec
from qcrd.records.specs.spec import MethodSpec


@dataclass(frozen=True)
class ImportedOutputs:
    """`unanswered` training questions got no output; `unused` lines belong to no question. The
    `run_on` outputs were cut where a made-up question begins with the heading `mark`.
    `readings` says of each question's texts where their answers are."""

    training: OutputsByQuestion
    test: OutputsByQuestion
    unanswered: int
    unused: int
    readings: Mapping[str, tuple[AnswerReading, ...]]
    mark: str | None = None
    run_on: int = 0


def choose_reading(spec: RationaleSpec, *, explains_label: bool) -> AnswerReading:
    if spec.answers != "auto":
        return spec.answers
    return "label" if explains_label or spec.imported_answer == "label" else "parse"


def match_outputs(
    imported: Sequence[QuestionRow],
    training: Sequence[QuestionRow],
    test: Sequence[QuestionRow],
    spec: MethodSpec,
) -> ImportedOutputs:
    """Outputs of test questions too, which the test file may contain itself; texts that explain a
    label tell nothing about the teacher's own answers to those."""
    imported = [cut_row_at_stop(row, spec.rationales) for row in imported]
    test = [cut_row_at_stop(row, spec.rationales) for row in test]
    mark = find_mark(
        [owner for row in [*imported, *test] for owner in iter_read_outputs(row, spec)], spec
    )
    cut = [cut_row_at_mark(row, mark, spec) for row in imported]
    by_question = dict[str, tuple[str, ...]]()
    readings = dict[str, tuple[AnswerReading, ...]]()
    for row in cut:  # one line may have all outputs of a question, or each of them its own
        if row.outputs:
            key, reading = row.question.id, choose_row_reading(row, spec)
            by_question[key] = by_question.get(key, ()) + row.outputs
            readings[key] = readings.get(key, ()) + (reading,) * len(row.outputs)
    training_ids = {row.question.id for row in training}
    asked = {row.question.id for row in test}
    own_outputs = {
        row.question.id: cut_row_at_mark(row, mark, spec).outputs
        for row in test
        if row.outputs and choose_row_reading(row, spec) != "label"
    }
    return ImportedOutputs(
        training={each: by_question[each] for each in training_ids if each in by_question},
        test={
            each: by_question[each]
            for each in asked
            if each in by_question and "label" not in readings[each]
        }
        | own_outputs,
        unanswered=sum(each not in by_question for each in training_ids),
        unused=sum(each not in training_ids | asked for each in by_question),
        readings=readings,
        mark=mark,
        run_on=sum(
            before != after
            for row, cut_row in zip(imported, cut, strict=True)
            for before, after in zip(row.outputs, cut_row.outputs, strict=True)
        ),
    )


def cut_row_at_stop(row: QuestionRow, spec: RationaleSpec) -> QuestionRow:
    """At the sequences that the spec names; the default ones are for prompts of ours."""
    if spec.stop == DEFAULT_STOP or not row.outputs:
        return row
    return row.with_outputs(cut_at_stop(each, spec.stop) for each in row.outputs)


def choose_row_reading(row: QuestionRow, spec: MethodSpec) -> AnswerReading:
    return choose_reading(spec.rationales, explains_label=row.explains_label)


def iter_read_outputs(row: QuestionRow, spec: MethodSpec) -> Iterator[tuple[Question, str]]:
    """Of outputs whose answer is read: those that explain a label are taken as they stand."""
    if choose_row_reading(row, spec) != "label":
        for output in row.outputs:
            yield row.question, output


def find_mark(owners: Places[tuple[Question, str]], spec: MethodSpec) -> str | None:
    """The heading of a made-up next question in outputs whose answer is read. Of `owners`, which
    are those with their questions, `list_examined` says which places are looked at."""

    def read_output(place: int, text: str) -> Reading:
        question = owners[place][0]
        is_last = spec.rationales.answers == "last"
        parsed = (read_last_value if is_last else parse_output)(text, spec.task, question)
        if question.label is None:
            return Reading(parsed is not None)
        label = canonical(question.label, spec.task, question)
        return Reading(parsed is not None, parsed is not None and parsed.answer == label)

    return find_next_question_mark(_AskedTexts(owners), read_output)


class _AskedTexts:
    """The texts of questions and their outputs."""

    def __init__(self, owners: Places[tuple[Question, str]]) -> None:
        self._owners = owners

    def __len__(self) -> int:
        return len(self._owners)

    def __getitem__(self, place: int) -> tuple[str, str]:
        question, output = self._owners[place]
        return question.text, output


def cut_row_at_mark(row: QuestionRow, mark: str | None, spec: MethodSpec) -> QuestionRow:
    if mark is None or choose_row_reading(row, spec) == "label":
        return row
    return row.with_outputs(cut_at_mark(each, mark) for each in row.outputs)
