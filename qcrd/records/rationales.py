"""Questions, rationales and votes: the knowledge that is assembled and learned from."""

from __future__ import annotations

from enum import StrEnum

from qcrd.records.base import Record


class Question(Record):
    """One item of the task. `id` is a digest of text and choices, so it is stable across files."""

    id: str
    text: str
    label: str | None = None
    choices: tuple[str, ...] = ()


class RationaleSource(StrEnum):
    """Who said a rationale; `fixed` is the student as it was at one given checkpoint."""

    TEACHER = "teacher"
    STUDENT = "student"
    FIXED = "fixed"


class Rationale(Record):
    """A reasoning text and the canonical answer it ends in (None: the answer was not asked for)."""

    id: str
    question_id: str
    text: str
    answer: str | None = None
    source: RationaleSource = RationaleSource.TEACHER


class Vote(Record):
    """Self-consistency over the parsed answers of one question.

    `answer` is the majority (canonical form), `margin` the share of the votes by which it leads the
    runner-up in [0, 1], `tie` whether the lead is zero, `counts` the votes per canonical answer.
    """

    answer: str | None
    margin: float
    tie: bool
    counts: dict[str, int]
    unparseable: int = 0


class RationaleItem(Record):
    """One question with its positive and negative knowledge, as the trainer reads it."""

    question: Question
    label: str | None
    """What the student learns to predict: the gold label, or the vote in label mode `llm`."""
    vote: Vote
    positives: tuple[Rationale, ...] = ()
    negatives: tuple[Rationale, ...] = ()
    gold: str | None = None
    """The gold label in canonical form, for counting right and wrong votes."""


class RationaleCounts(Record):
    questions: int
    outputs: int
    parsed: int
    unparseable: int
    majority_right: int
    majority_wrong: int
    ties: int
    positives: int
    negatives: int
    reused: int = 0
    """Outputs that an earlier job had paid for."""


class RationaleManifest(Record):
    """Written last: a rationale set exists when, and only when, this object does."""

    id: str
    shards: tuple[str, ...]
    counts: RationaleCounts
    test: str | None = None
    """Key of the test questions with the teacher's own answers."""
    validation: str | None = None
    """Key of the job's own validation questions; None: hold back a share of the training ones."""
    created_at: float
    training_file: str | None = None
    """Id, and so digest, of the file whose questions these are; None where it was not kept."""
    job_id: str | None = None
    """Who assembled it, and what for; None in sets from before it was kept."""
    teacher: str | None = None
    """Name of the teacher that was asked; None where none was, or it was not kept."""


class TestItem(Record):
    """A test question, its canonical gold label, and what the teacher's own vote says about it."""

    __test__ = False
    question: Question
    gold: str
    teacher_answer: str | None = None
    teacher_asked: bool = False


class Prediction(Record):
    """What a student said to a test question; kept for paired comparison of two students."""

    question_id: str
    text: str
    answer: str | None
    gold: str
    right: bool
    method: str | None = None
