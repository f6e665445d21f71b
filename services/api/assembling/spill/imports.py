"""Imported outputs on disk: matched to questions as `match_outputs` matches them in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

from qcrd.method.run_on import cut_at_mark, list_examined
from qcrd.questions.imported_outputs import (
    ImportedOutputs,
    choose_row_reading,
    cut_row_at_mark,
    cut_row_at_stop,
    find_mark,
    iter_read_outputs,
)
from qcrd.questions.labelling import AnswerReading
from qcrd.questions.rows import QuestionRow
from qcrd.records.rationales import Question
from qcrd.records.specs.spec import MethodSpec
from services.api.assembling.spill.database import SpillDatabase
from services.api.assembling.spill.questions import ROW, SpilledRows, Split


def spill_outputs(
    database: SpillDatabase,
    read_imported: Callable[[], Iterable[QuestionRow]],
    training: SpilledRows,
    test: SpilledRows,
    spec: MethodSpec,
) -> ImportedOutputs:
    """What `match_outputs` returns, with mappings that read from disk. `read_imported` reads the
    file of outputs from its beginning, which is done twice."""
    count = 0
    for row in _iter_cut_at_stop(read_imported(), spec):
        count += sum(1 for _ in iter_read_outputs(row, spec))
        reading = choose_row_reading(row, spec)
        database.execute_many(
            "INSERT INTO import (id, reading, text) VALUES (?, ?, ?)",
            ((row.question.id, reading, text) for text in row.outputs),
        )
    for row in _iter_cut_at_stop(test, spec):
        count += sum(1 for _ in iter_read_outputs(row, spec))
    rows = _iter_cut_at_stop(chain(read_imported(), test), spec)
    mark = find_mark(_ExaminedOutputs(count, rows, spec), spec)
    imported = _ImportedTexts(database, mark)
    tested = _TestTexts(database, imported, spec)
    return ImportedOutputs(
        training=imported,
        test=tested,
        unanswered=len(training) - len(imported),
        unused=database.count(
            "SELECT DISTINCT id FROM import WHERE NOT EXISTS (SELECT 1 FROM question "
            "WHERE question.id = import.id AND split != ?)",
            (Split.VALIDATION,),
        ),
        readings=_Readings(database),
        mark=mark,
        run_on=0 if mark is None else _count_run_on(database, mark),
    )


def _iter_cut_at_stop(rows: Iterable[QuestionRow], spec: MethodSpec) -> Iterator[QuestionRow]:
    return (cut_row_at_stop(row, spec.rationales) for row in rows)


def _count_run_on(database: SpillDatabase, mark: str) -> int:
    texts = database.iterate("SELECT text FROM import WHERE reading != 'label'")
    return sum(cut_at_mark(text, mark) != text for (text,) in texts)


class _ExaminedOutputs:
    """Of `count` outputs whose answer is read those that are looked at, with their questions."""

    def __init__(self, count: int, rows: Iterable[QuestionRow], spec: MethodSpec) -> None:
        self._count = count
        examined = list_examined(count)
        owners = enumerate(owner for row in rows for owner in iter_read_outputs(row, spec))
        self._owners = {place: owner for place, owner in owners if place in examined}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> tuple[Question, str]:
        return self._owners[place]


class _Readings(Mapping[str, tuple[AnswerReading, ...]]):
    """Of each question's texts where their answers are."""

    def __init__(self, database: SpillDatabase) -> None:
        self._database = database

    def __getitem__(self, question_id: str) -> tuple[AnswerReading, ...]:
        query = "SELECT reading FROM import WHERE id = ? ORDER BY number"
        found = tuple(reading for (reading,) in self._database.iterate(query, (question_id,)))
        if not found:
            raise KeyError(question_id)
        return found

    def __iter__(self) -> Iterator[str]:
        return (each for (each,) in self._database.iterate("SELECT DISTINCT id FROM import"))

    def __len__(self) -> int:
        return self._database.count("SELECT DISTINCT id FROM import")


class _ImportedTexts(Mapping[str, tuple[str, ...]]):
    """The texts of each question, cut at the `mark` where they run on; those of training questions
    are counted and listed."""

    def __init__(self, database: SpillDatabase, mark: str | None) -> None:
        self._database = database
        self.mark = mark
        self._listed = (
            f"SELECT id FROM question WHERE split = {Split.TRAINING:d} "
            "AND EXISTS (SELECT 1 FROM import WHERE import.id = question.id)"
        )

    def __getitem__(self, question_id: str) -> tuple[str, ...]:
        query = "SELECT text, reading FROM import WHERE id = ? ORDER BY number"
        found = tuple(
            text if self.mark is None or reading == "label" else cut_at_mark(text, self.mark)
            for text, reading in self._database.iterate(query, (question_id,))
        )
        if not found:
            raise KeyError(question_id)
        return found

    def __iter__(self) -> Iterator[str]:
        return (question_id for (question_id,) in self._database.iterate(self._listed))

    def __len__(self) -> int:
        return self._database.count(self._listed)


class _TestTexts(Mapping[str, tuple[str, ...]]):
    """Of each test question what its own line has, or else what was imported, where that does not
    explain a label."""

    def __init__(self, database: SpillDatabase, imported: _ImportedTexts, spec: MethodSpec) -> None:
        self._database = database
        self._imported = imported
        self._spec = spec
        self._readings = _Readings(database)

    def __getitem__(self, question_id: str) -> tuple[str, ...]:
        query = "SELECT row FROM question WHERE id = ? AND split = ?"
        if (found := self._database.find(query, (question_id, Split.TEST))) is None:
            raise KeyError(question_id)
        row = ROW.validate_json(found[0])
        if row.outputs and choose_row_reading(row, self._spec) != "label":
            row = cut_row_at_stop(row, self._spec.rationales)
            return cut_row_at_mark(row, self._imported.mark, self._spec).outputs
        if "label" in self._readings[question_id]:
            raise KeyError(question_id)
        return self._imported[question_id]

    def __iter__(self) -> Iterator[str]:
        query = "SELECT id FROM question WHERE split = ? ORDER BY place"
        return (each for (each,) in self._database.iterate(query, (Split.TEST,)) if each in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)
