"""Questions of a data file: checked record by record, errors name the line and the fix."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, get_args

from qcrd.errors import Invalid
from qcrd.method.answers import question_id, repeat_id
from qcrd.questions.conversations import convert_record
from qcrd.questions.duplicates import DuplicateIndex, FirstLines
from qcrd.questions.field_map import (
    LEFT_OUT,
    FieldMap,
    apply_field_map,
    list_empty_columns,
    list_source_columns,
    make_unmapped_error,
)
from qcrd.questions.file_summary import FileSummary
from qcrd.questions.values import (
    collect_metadata,
    get_label,
    get_text,
    get_texts,
    make_value_error,
    unfold_choices,
)
from qcrd.records.rationales import Question
from qcrd.records.specs.task import QuestionField
from qcrd.runtime.data_files.detect import read_records
from qcrd.runtime.data_files.json_lines import JsonLinesReader
from qcrd.runtime.data_files.records import (
    MAX_RECORDS,
    SourceRecord,
    Unit,
    make_record_error,
)

FIELDS: tuple[QuestionField, ...] = get_args(QuestionField)
OUTPUT_FIELDS: tuple[QuestionField, ...] = (
    "teacher_output",
    "teacher_outputs",
    "outputs",
    "rationales",
)


@dataclass(frozen=True)
class QuestionRow:
    """One record: its number (from 1), the question, and raw teacher outputs that came with it.
    `explains_label`: they came as rationales, each of which explains the record's label.
    `repeats` is the number of an earlier record with the same question and label."""

    line_number: int
    question: Question
    outputs: tuple[str, ...] = ()
    explains_label: bool = False
    unit: Unit = "line"
    repeats: int | None = None
    lacks: tuple[str, ...] = ()
    """Columns of the question's template that the record has nothing in."""

    def with_outputs(self, outputs: Iterable[str]) -> QuestionRow:
        return replace(self, outputs=tuple(outputs))

    def make_error(self, problem: str, *, code: str, param: str) -> Invalid:
        return make_record_error(self.line_number, problem, unit=self.unit, code=code, param=param)


class RowBuilder:
    """Rows out of records. With `allow_unmapped` the records of a file whose columns only a task
    can name are counted and not read.

    Keeps each question's line number. Questions that differ in the form of characters and in
    white space around them only are the same: case and signs tell code and formulas apart.
    """

    def __init__(
        self,
        fields: FieldMap | None = None,
        *,
        allow_unmapped: bool = False,
        first_lines: FirstLines | None = None,
    ) -> None:
        self._fields = fields or {}
        self._allow_unmapped = allow_unmapped
        self._index = DuplicateIndex() if first_lines is None else first_lines
        self.summary = FileSummary()

    def build(self, record: SourceRecord) -> Iterator[QuestionRow]:
        """Nothing for a record that is not read."""
        self.summary.add_record(record)
        named, rest = self.name_fields(record)
        if named.get("label") is LEFT_OUT:
            self.summary.add_left_out(record)
            return
        if named.get("question") is None:
            if "question" in named or not self._is_unmapped(rest):
                raise make_value_error(
                    record, '`question` is missing: give its text, "question": "…"'
                )
            if not self._allow_unmapped:
                raise make_unmapped_error(record)
            self.summary.is_unmapped = True
            return
        yield self._mark_repeat(self._make_row(record, named, rest))

    def _is_unmapped(self, rest: Mapping[str, Any]) -> bool:
        """Whether the file has columns of its own only, in this and in earlier records."""
        return bool(rest) and (self.summary.is_unmapped or self.summary.records == 1)

    def name_fields(self, record: SourceRecord) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields by our names, and the other columns."""
        if self._fields and self._has_mapped_column(record):
            is_first = self.summary.records == 1
            named, rest = apply_field_map(record, self._fields, is_first=is_first)
        else:
            converted = convert_record(record)
            if converted is not None:
                self.summary.is_chat = True
                self.summary.is_conversation |= converted.is_conversation
            named, rest = {}, dict(record.fields if converted is None else converted.fields)
        for name in FIELDS:
            if name in rest and name not in named:
                named[name] = rest.pop(name)
        return named, rest

    def _has_mapped_column(self, record: SourceRecord) -> bool:
        """A job's other files may have our own names."""
        sources = [
            source
            for each in self._fields.values()
            for source in ((each,) if isinstance(each, str) else each)
        ]
        columns = [name for source in sources for name in list_source_columns(source)]
        steps = {*columns, *(name.partition(".")[0] for name in columns)}
        return bool(steps & record.fields.keys()) or "question" not in record.fields

    def _make_row(
        self, record: SourceRecord, named: Mapping[str, Any], rest: Mapping[str, Any]
    ) -> QuestionRow:
        text = get_text(record, "question", named["question"])
        options, keys = unfold_choices(named.get("choices"))
        choices = get_texts(record, "choices", options)
        if len(choices) == 1:
            raise make_value_error(
                record, "`choices` has one option: give at least two or leave it out"
            )
        given = named.get("label")
        label = get_label(record, given, choices, keys)
        self.summary.add_label(record, given, label)
        question = Question(
            id=question_id(text, choices),
            text=text,
            label=label,
            choices=choices,
            metadata=collect_metadata(rest),
        )
        self.summary.add_columns(rest)
        outputs = _get_outputs(record, named)
        self.summary.outputs += len(outputs)
        explains_label = named.get("rationales") is not None
        lacks = tuple(list_empty_columns(record, self._fields.get("question", "")))
        return QuestionRow(
            record.number, question, outputs, explains_label, record.unit, lacks=lacks
        )

    def _mark_repeat(self, row: QuestionRow) -> QuestionRow:
        compared = repeat_id(row.question.text, row.question.choices)
        checksum = zlib.crc32((row.question.label or "").encode())
        first = self._index.setdefault(compared, row.line_number, checksum)
        if first == row.line_number:
            return row
        if not self._index.has_checksum(compared, checksum):
            raise row.make_error(
                f"the same question as {row.unit} {first} with another label: remove one of the "
                "two, or ask for what tells them apart",
                code="duplicate_question",
                param="file",
            )
        self.summary.add_repeat(row.line_number, first)
        return replace(row, repeats=first)


class RowReader:
    """Parses rows of JSON lines from chunks that are cut anywhere; `Invalid` at the first invalid
    one. Keeps one line in memory."""

    def __init__(self, max_lines: int = MAX_RECORDS, *, allow_unmapped: bool = False) -> None:
        self._records = JsonLinesReader(max_lines)
        self._builder = RowBuilder(allow_unmapped=allow_unmapped)

    @property
    def summary(self) -> FileSummary:
        return self._builder.summary

    def feed(self, chunk: bytes) -> Iterator[QuestionRow]:
        for record in self._records.feed(chunk):
            yield from self._builder.build(record)

    def finish(self) -> Iterator[QuestionRow]:
        """The last row, if any is left; `Invalid` if the file had none."""
        for record in self._records.finish():
            yield from self._builder.build(record)
        check_not_empty(self.summary)


def check_not_empty(summary: FileSummary) -> None:
    if not summary.records:
        raise Invalid(
            "the file is empty: questions are needed, as JSON lines such as "
            '{"question": "…", "label": "…"}, a JSON array, CSV, TSV or Parquet',
            param="file",
            code="empty_file",
        )


def read_rows(
    data: BinaryIO,
    fields: FieldMap | None = None,
    *,
    max_lines: int = MAX_RECORDS,
    with_repeats: bool = False,
    first_lines: FirstLines | None = None,
) -> Iterator[QuestionRow]:
    """Every row of the file; `Invalid` at the first invalid one, or if there is none. A record
    whose question and label an earlier one has is left out unless `with_repeats`; which those are
    is kept in `first_lines`, by default in memory."""
    builder = RowBuilder(fields, first_lines=first_lines)
    for record in read_records(data, max_lines):
        for row in builder.build(record):
            if row.repeats is None or with_repeats:
                yield row
    check_not_empty(builder.summary)


def check_records(data: BinaryIO) -> FileSummary:
    """What a file of any format has; `Invalid` at the first record that no task could read."""
    builder = RowBuilder(allow_unmapped=True)
    for record in read_records(data):
        for _ in builder.build(record):
            pass
    check_not_empty(builder.summary)
    return builder.summary


def _get_outputs(record: SourceRecord, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The row's outputs. An empty one is kept, and counted as unparseable later."""
    present = [name for name in OUTPUT_FIELDS if fields.get(name) is not None]
    if len(present) > 1:
        raise make_value_error(
            record, f"both `{present[0]}` and `{present[1]}`: put all outputs into one list"
        )
    if present == ["teacher_output"]:
        output = fields["teacher_output"]
        return (get_text(record, "teacher_output", output, allow_empty=True),)
    if not present:
        return ()
    value = fields[present[0]]
    if present == ["rationales"] and isinstance(value, str) and not value.lstrip().startswith("["):
        value = [value]  # a column of a table has one
    return get_texts(record, present[0], value, allow_empty=True)
