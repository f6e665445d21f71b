"""Teacher outputs that were already paid for, matched to questions by their text and choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qcrd.method.answers import canonical, parse_output, read_last_value
from qcrd.method.run_on import Reading, cut_at_mark, cut_at_stop, find_next_question_mark
from qcrd.questions.labelling import AnswerReading, OutputsByQuestion
from qcrd.questions.rows import QuestionRow
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
    imported = _cut_at_stop(imported, spec.rationales)
    test = _cut_at_stop(test, spec.rationales)
    mark = _find_mark([*imported, *test], spec)
    cut = [_cut_row(row, mark, spec) for row in imported]
    by_question = dict[str, tuple[str, ...]]()
    readings = dict[str, tuple[AnswerReading, ...]]()
    for row in cut:  # one line may have all outputs of a question, or each of them its own
        if row.outputs:
            key, reading = row.question.id, _choose_row_reading(row, spec)
            by_question[key] = by_question.get(key, ()) + row.outputs
            readings[key] = readings.get(key, ()) + (reading,) * len(row.outputs)
    training_ids = {row.question.id for row in training}
    asked = {row.question.id for row in test}
    own_outputs = {
        row.question.id: _cut_row(row, mark, spec).outputs
        for row in test
        if row.outputs and _choose_row_reading(row, spec) != "label"
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


def _cut_at_stop(rows: Sequence[QuestionRow], spec: RationaleSpec) -> list[QuestionRow]:
    """At the sequences that the spec names; the default ones are for prompts of ours."""
    if spec.stop == DEFAULT_STOP:
        return list(rows)
    return [row.with_outputs(cut_at_stop(each, spec.stop) for each in row.outputs) for row in rows]


def _choose_row_reading(row: QuestionRow, spec: MethodSpec) -> AnswerReading:
    return choose_reading(spec.rationales, explains_label=row.explains_label)


def _find_mark(rows: Sequence[QuestionRow], spec: MethodSpec) -> str | None:
    """Of outputs whose answer is read: those that explain a label are taken as they stand."""
    read = [row for row in rows if _choose_row_reading(row, spec) != "label"]
    owners = [(row.question, output) for row in read for output in row.outputs]

    def read_output(place: int, text: str) -> Reading:
        question = owners[place][0]
        is_last = spec.rationales.answers == "last"
        parsed = (read_last_value if is_last else parse_output)(text, spec.task, question)
        if question.label is None:
            return Reading(parsed is not None)
        label = canonical(question.label, spec.task, question)
        return Reading(parsed is not None, parsed is not None and parsed.answer == label)

    return find_next_question_mark(
        [(question.text, output) for question, output in owners], read_output
    )


def _cut_row(row: QuestionRow, mark: str | None, spec: MethodSpec) -> QuestionRow:
    if mark is None or _choose_row_reading(row, spec) == "label":
        return row
    return row.with_outputs(cut_at_mark(each, mark) for each in row.outputs)
