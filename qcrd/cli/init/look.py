"""A look at a data file: its records, what its columns are, and what its answers are like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcrd.cli.init.answers import AnswerGuess
from qcrd.cli.init.columns import ColumnGuess, Source, guess_columns
from qcrd.cli.init.marks import find_mark
from qcrd.errors import Invalid
from qcrd.questions.field_map import LEFT_OUT, FieldMap
from qcrd.questions.rows import OUTPUT_FIELDS, RowBuilder
from qcrd.runtime.data_files.detect import read_records
from qcrd.runtime.data_files.records import SourceRecord

SAMPLED_RECORDS = 400
"""Records by which columns are told: the first half of them, and others up to the file's end."""


@dataclass(frozen=True)
class DataLook:
    """`outputs` counts records that have some."""

    records: int
    columns: list[str]
    guess: ColumnGuess
    answers: AnswerGuess
    first: Mapping[str, Any]
    outputs: int = 0


def look(path: Path, given: Mapping[str, Source]) -> DataLook:
    """Reads the file twice: a sample for its columns, then every record's label. `Invalid` for one
    that cannot be read."""
    sample, columns, count = _take_sample(path)
    guess = guess_columns(sample, given)
    if not guess.missing:
        _split_solutions(guess, sample)
    answers, outputs = AnswerGuess(), 0
    for label, has_outputs in _iter_named(path, guess.fields):
        answers.add(label)
        outputs += has_outputs
    _leave_out_unlabelled(guess, answers)
    column = guess.fields.get("label", "label")
    if guess.has_choices and answers.are_places and isinstance(column, str):
        guess.fields["label"] = f"choices[{column}]"
    return DataLook(count, columns, guess, answers, sample[0], outputs)


def _take_sample(path: Path) -> tuple[list[dict[str, Any]], list[str], int]:
    """Records of the beginning and of all the file, the columns of all, and how many there are."""
    first: list[dict[str, Any]] = []
    spread: list[dict[str, Any]] = []
    columns, count, stride = dict[str, None](), 0, 1
    half = SAMPLED_RECORDS // 2
    for record in _iter_records(path):
        columns |= dict.fromkeys(record.fields)
        if count < half:
            first.append(record.fields)
        elif (count - half) % stride == 0:
            spread.append(record.fields)
            if len(spread) > half:
                spread, stride = spread[::2], stride * 2
        count += 1
    if not first:
        raise Invalid(f"{path}: the file is empty")
    return first + spread, list(columns), count


def _iter_records(path: Path) -> Iterator[SourceRecord]:
    try:
        with path.open("rb") as data:
            yield from read_records(data)
    except Invalid as error:
        raise Invalid(f"{path}: {error.message}", code=error.code) from error


def _iter_named(path: Path, fields: Mapping[str, Source]) -> Iterator[tuple[Any, bool]]:
    """Each record's label as it stands there, and whether it has outputs. What cannot be read is
    left to the preview, which tells it."""
    builder = RowBuilder(freeze(fields))
    for record in _iter_records(path):
        builder.summary.add_record(record)
        try:
            named, _ = builder.name_fields(record)
        except Invalid:
            continue
        label = named.get("label")
        if label is not LEFT_OUT:
            yield label, any(named.get(name) for name in OUTPUT_FIELDS)


def freeze(fields: Mapping[str, Source]) -> FieldMap:
    return {
        name: source if isinstance(source, str) else tuple(source)
        for name, source in fields.items()
    }


def _split_solutions(guess: ColumnGuess, sample: Sequence[Mapping[str, Any]]) -> None:
    """Labels that are solutions with their answers behind a mark are both."""
    column = guess.fields.get("label", "label")
    if not isinstance(column, str) or guess.form is not None:
        return
    mark = find_mark([record.get(column) for record in sample])
    if mark is not None:
        guess.fields["label"] = f"{column} >> {mark}"
        if not guess.has_outputs:
            guess.fields["rationales"] = f"{column} << {mark}"
            guess.has_outputs = True


def _leave_out_unlabelled(guess: ColumnGuess, answers: AnswerGuess) -> None:
    """SNLI's -1 and `-` say that nobody agreed on a label."""
    column = guess.fields.get("label", "label")
    if guess.form is None and isinstance(column, str) and " >> " not in column:
        value = answers.take_unlabelled()
        if value is not None:
            guess.fields["label"] = f"{column} != {value}"
