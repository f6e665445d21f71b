"""The rows of a job's files, on disk: in their order, and which of them were there before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum

from pydantic import TypeAdapter

from qcrd.questions.rows import QuestionRow
from qcrd.records.rationales import Question
from services.api.assembling.spill.database import SpillDatabase

ROW = TypeAdapter(QuestionRow)


class Split(IntEnum):
    TRAINING = 0
    VALIDATION = 1
    TEST = 2


class SpilledRows:
    """The rows of one file in their order; each pass reads them anew."""

    def __init__(self, database: SpillDatabase, split: Split) -> None:
        self._database = database
        self._split = split
        self._count = 0
        self.with_outputs = 0
        """Rows that came with outputs. Those of test questions alone are kept: others are imported
        from the file that the job names, if it names one."""

    def fill(self, rows: Iterable[QuestionRow]) -> None:
        """Splits are filled in their order, which that of the places is."""
        (first,) = self._database.find("SELECT COALESCE(MAX(place) + 1, 0) FROM question") or (0,)
        for row in rows:
            self.with_outputs += bool(row.outputs)
            if self._split is not Split.TEST:
                row = row.with_outputs(())
            self._database.execute(
                "INSERT INTO question (place, split, id, line, row) VALUES (?, ?, ?, ?, ?)",
                (
                    first + self._count,
                    self._split,
                    row.question.id,
                    row.line_number,
                    ROW.dump_json(row).decode(),
                ),
            )
            self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[QuestionRow]:
        query = "SELECT row FROM question WHERE split = ? ORDER BY place"
        for (text,) in self._database.iterate(query, (self._split,)):
            yield ROW.validate_json(text)

    def has_question(self, question_id: str) -> bool:
        query = "SELECT 1 FROM question WHERE id = ? AND split = ?"
        return self._database.find(query, (question_id, self._split)) is not None

    def __contains__(self, row: object) -> bool:
        return isinstance(row, QuestionRow) and self.has_question(row.question.id)


class SpilledDuplicates:
    """Each question's first line and its label's checksum, as `DuplicateIndex` has them."""

    def __init__(self, database: SpillDatabase) -> None:
        self._database = database
        database.execute("DELETE FROM duplicate")

    def setdefault(self, question_id: str, line: int, checksum: int = 0) -> int:
        """The question's first line: `line`, unless there was an earlier one."""
        key = bytes.fromhex(question_id)
        added = self._database.execute(
            "INSERT OR IGNORE INTO duplicate VALUES (?, ?, ?)", (key, line, checksum)
        )
        return line if added else self._read(key)[0]

    def has_checksum(self, question_id: str, checksum: int) -> bool:
        """Whether the question's first line came with this checksum."""
        return self._read(bytes.fromhex(question_id))[1] == checksum

    def _read(self, key: bytes) -> tuple[int, int]:
        found = self._database.find("SELECT line, checksum FROM duplicate WHERE id = ?", (key,))
        line, checksum = found or (0, -1)
        return line, checksum


def read_question(database: SpillDatabase, place: int) -> Question:
    """The question at a place, which counts over all files of the job."""
    (text,) = database.find("SELECT row FROM question WHERE place = ?", (place,)) or ("",)
    return ROW.validate_json(text).question
