"""The texts of a job's outputs by question, read from disk as they are needed, and their sums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.api.assembling.spill.database import SpillDatabase
from services.api.assembling.spill.questions import Split
from services.api.assembling.spill.samples import SLOTS

SUMS = (
    "SELECT COUNT(*), TOTAL(own = 0), TOTAL(prompt), TOTAL(completion), TOTAL(estimated) "
    "FROM generation"
)


class SampledTexts(Mapping[str, tuple[str, ...]]):
    """The outputs of each question that the teacher was asked, without the `stop` sequences."""

    def __init__(self, database: SpillDatabase, stop: Sequence[str]) -> None:
        self._database = database
        self._stop = stop

    def __getitem__(self, question_id: str) -> tuple[str, ...]:
        query = "SELECT place FROM question WHERE id = ? AND samples > 0"
        if (found := self._database.find(query, (question_id,))) is None:
            raise KeyError(question_id)
        first = found[0] * SLOTS
        texts = self._database.iterate(
            "SELECT text, finish FROM generation WHERE slot BETWEEN ? AND ? ORDER BY slot",
            (first, first + SLOTS - 1),
        )
        return tuple(strip_stop_sequence(text, finish, self._stop) for text, finish in texts)

    def __iter__(self) -> Iterator[str]:
        query = "SELECT id FROM question WHERE samples > 0 ORDER BY place"
        return (question_id for (question_id,) in self._database.iterate(query))

    def __len__(self) -> int:
        return self._database.count("SELECT 1 FROM question WHERE samples > 0")


def strip_stop_sequence(text: str, finish_reason: str, stop: Sequence[str]) -> str:
    """The text without the stop sequence that ended it, which a TGI server leaves in."""
    if finish_reason == "stop_sequence":
        for stop_sequence in stop:
            if text.endswith(stop_sequence):
                return text.removesuffix(stop_sequence)
    return text


@dataclass(frozen=True)
class OutputSums:
    """Of some outputs: their number, how many another job paid for, and their tokens."""

    outputs: int
    foreign: int
    prompt_tokens: int
    completion_tokens: int
    is_estimated: bool

    @classmethod
    def read(cls, database: SpillDatabase, condition: str, *values: Any) -> OutputSums:
        found = database.find(f"{SUMS} {condition}", values) or (0, 0, 0, 0, 0)
        outputs, foreign, prompt, completion, estimated = map(int, found)
        return cls(outputs, foreign, prompt, completion, estimated > 0)


def sum_own_outputs(database: SpillDatabase) -> OutputSums:
    """Of what this job paid for, each sample once."""
    return OutputSums.read(database, "WHERE own AND NOT twin")


def sum_training_outputs(database: SpillDatabase) -> OutputSums:
    """Of the training questions, each question's counted as its own."""
    places = "SELECT place FROM question WHERE split = ?"
    return OutputSums.read(database, f"WHERE slot / {SLOTS} IN ({places})", Split.TRAINING)


def sum_test_outputs(database: SpillDatabase) -> OutputSums:
    """Of the test questions, also where they are asked as training questions."""
    return OutputSums.read(
        database,
        f"JOIN question AS asked ON asked.place = slot / {SLOTS} "
        "JOIN question AS test ON test.id = asked.id WHERE test.split = ?",
        Split.TEST,
    )


def count_answered_tests(database: SpillDatabase) -> int:
    """Test questions with at least one output."""
    return database.count(
        f"SELECT DISTINCT asked.id FROM generation JOIN question AS asked "
        f"ON asked.place = slot / {SLOTS} JOIN question AS test ON test.id = asked.id "
        "WHERE test.split = ?",
        (Split.TEST,),
    )
