"""Questions that a teacher will not answer: counted by reason and line, and borne up to a share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from qcrd.errors import TooManyRefused
from qcrd.records.teachers.prompt import TeacherPrompt
from services.api.assembling.sampling_plan import PromptRequest
from services.api.assembling.teacher.prompt_refused import PromptRefused, RefusalReason

MIN_ALLOWED = 2
"""Refused questions that stop no job, however few it asks."""
MAX_LISTED_LINES = 20
"""Lines of one reason that a message names; the event has more."""
MAX_LISTED_ROWS = 1000
"""Rows that an event has, about 200 KB."""


@dataclass(frozen=True)
class RowLocation:
    """`file` is the parameter of the job's spec, `line` counts from 1."""

    file: str
    line: int


@dataclass(frozen=True)
class AskedQuestion:
    """`samples` of it are wanted in all, those that are there already included."""

    location: RowLocation
    samples: int


@dataclass(frozen=True)
class RefusedRow:
    location: RowLocation
    reason: RefusalReason
    message: str

    def to_dict(self) -> dict[str, object]:
        return {
            "file": self.location.file,
            "line": self.location.line,
            "reason": self.reason,
            "message": self.message[:200],
        }


def get_allowed_refusals(max_share: float, questions: int) -> int:
    """How many of so many questions a teacher may refuse before the job pauses."""
    return max(MIN_ALLOWED, int(max_share * questions))


class AskedQuestions(Protocol):
    """All questions that are asked, by their prompts."""

    def __getitem__(self, prompt: TeacherPrompt, /) -> AskedQuestion: ...

    def __len__(self) -> int: ...


class RefusalLog:
    """`questions` are all that are asked; `max_share` of them may be refused.

    A prompt that is too long or refused is refused for good; a filter looks at each answer anew.
    """

    def __init__(self, questions: AskedQuestions, max_share: float) -> None:
        self._questions = questions
        self._allowed = get_allowed_refusals(max_share, len(questions))
        self._refusals: Counter[TeacherPrompt] = Counter()
        self._rows: dict[TeacherPrompt, RefusedRow] = {}

    def add(self, request: PromptRequest, error: PromptRefused) -> None:
        question = self._questions[request.prompt]
        self._refusals[request.prompt] += len(request.samples)
        if error.reason != "filtered" or self._refusals[request.prompt] >= question.samples:
            row = RefusedRow(question.location, error.reason, error.message)
            self._rows.setdefault(request.prompt, row)

    def skips(self, prompt: TeacherPrompt) -> bool:
        """Whether asking this one would be in vain."""
        return prompt in self._rows or self.is_too_many

    @property
    def rows(self) -> list[RefusedRow]:
        """By file and line."""
        return sorted(
            self._rows.values(),
            key=lambda row: (
                row.location.file != "training_file",
                row.location.file,
                row.location.line,
            ),
        )

    @property
    def is_too_many(self) -> bool:
        """More than may be; also when nothing is left, however few questions there are."""
        refused = len(self._rows)
        return refused > self._allowed or 0 < refused == len(self._questions)

    def count_by_reason(self) -> dict[str, int]:
        return dict(Counter[str](row.reason for row in self._rows.values()))

    def describe(self) -> str:
        """The table in one line: how many, and for each reason its lines."""
        by_reason: dict[str, list[RefusedRow]] = {}
        for row in self.rows:
            by_reason.setdefault(row.reason, []).append(row)
        table = "; ".join(
            f"{reason} {len(rows)} ({_list_lines(row.location for row in rows)}; "
            f"first: {rows[0].message[:200]})"
            for reason, rows in by_reason.items()
        )
        return f"the teacher refuses {len(self._rows)} of {len(self._questions)} questions: {table}"

    def list_rows(self) -> list[dict[str, object]]:
        return [row.to_dict() for row in self.rows[:MAX_LISTED_ROWS]]

    def make_error(self, param: str) -> TooManyRefused:
        return TooManyRefused(
            f"{self.describe()}. At most {self._allowed} may be (`{param}`); what was answered is "
            "kept: resume the job once the teacher takes them, or create it anew without these "
            "lines or with a larger share",
            param=param,
        )


def _list_lines(locations: Iterable[RowLocation]) -> str:
    lines: dict[str, list[int]] = {}
    for location in locations:
        lines.setdefault(location.file, []).append(location.line)
    return ", ".join(
        f"{file} line{'s' * (len(numbers) > 1)} "
        + ", ".join(map(str, numbers[:MAX_LISTED_LINES]))
        + ", …" * (len(numbers) > MAX_LISTED_LINES)
        for file, numbers in lines.items()
    )
