"""Questions, rationales and votes: the rationale set that students are trained on."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from qcrd.records.base import Record, StoredRecord
from qcrd.records.reports.serving import TeacherServing


class Question(Record):
    """A question of the task. `id` is a digest of text and choices, so equal across files.
    `metadata` are its record's other columns, as texts."""

    id: str
    text: str
    label: str | None = None
    choices: tuple[str, ...] = ()
    metadata: dict[str, str] = Field(default_factory=dict)


class RationaleSource(StrEnum):
    """The model that generated a rationale; `fixed` is the student at one given checkpoint."""

    TEACHER = "teacher"
    STUDENT = "student"
    FIXED = "fixed"


class Rationale(Record):
    """A reasoning text and the canonical answer it ends in (None: generated without an answer)."""

    id: str
    question_id: str
    text: str
    answer: str | None = None
    source: RationaleSource = RationaleSource.TEACHER
    is_cut: bool = False
    """It reached the limit of its generation before its end."""
    entropy: float | None = None
    """Of a sample of the student: nats per token of the distributions it was drawn from, as they
    are at temperature 1."""


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
    """A question with its positive and negative rationales, as the trainer reads it."""

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
    """Cached outputs of earlier jobs."""
    refused: int = 0
    """Questions, of training and test, that the teacher did not answer; an event lists them."""
    teacher_tokens: int | None = None
    """Read and written for the outputs, by whichever job they were paid; None where no teacher was
    asked, and in older sets."""


class RationaleLengths(Record):
    """Words of the positive rationales; nine in ten have no more than `p90`."""

    median: int
    p90: int
    longest: int


class RationaleManifest(StoredRecord):
    """The manifest of a rationale set; written last, so the set exists if this object does."""

    id: str
    shards: tuple[str, ...]
    counts: RationaleCounts
    test: str | None = None
    """Key of the test questions with the teacher's own answers."""
    validation: str | None = None
    """Key of the job's own validation questions; None: hold out a share of the training ones."""
    created_at: float
    training_file: str | None = None
    """Id of the training file, which is its digest; None in older sets."""
    job_id: str | None = None
    """Id of the job that assembled the set; None in older sets."""
    teacher: str | None = None
    """Name of the teacher; None where none was called, and in older sets."""
    words: RationaleLengths | None = None
    """None without any positive, and in older sets."""
    serving: TeacherServing | None = None
    """None where no teacher was called, and in older sets."""


class TestItem(Record):
    """A test question, its canonical gold label, and the teacher's majority answer."""

    __test__ = False
    question: Question
    gold: str
    teacher_answer: str | None = None
    teacher_asked: bool = False


class RationaleUse(Record):
    """What a student that explains under a prefix of its own makes of its rationales: counts of
    test questions, each explained once, greedily.

    `given`: those that it read whole with its rationale behind the question, which it then
    answered anew. `named`: those whose rationale by itself names an answer to the task.
    """

    questions: int
    given: int = 0
    given_right: int = 0
    right_without: int = 0
    """Of `given`, those that it answers rightly without the rationale."""
    given_same: int = 0
    """Of `given`, those whose label is the same with and without it."""
    named: int = 0
    named_same: int = 0
    """Of `named`, those where it is the student's label."""
    named_right: int = 0


class RationaleGap(Record):
    """How much likelier a student finds right rationales than wrong ones, on held-out `questions`
    that have both: cross entropy in nats per token, of each side the mean over its rationales, then
    over questions."""

    questions: int
    right: float
    wrong: float

    @property
    def gap(self) -> float:
        return self.wrong - self.right


class Prediction(Record):
    """A student's output for a question, for the paired comparison of two students.

    `answer_logprob`: natural, of the answer's tokens with their end under the student, whatever it
    was held to; None where there is no answer, and in results of before it was kept, as `tokens`,
    those of the output. `confidence`: the chance that the answer is right, where it was calibrated.
    """

    question_id: str
    text: str
    answer: str | None
    gold: str
    right: bool
    method: str | None = None
    answer_logprob: float | None = None
    tokens: int | None = None
    confidence: float | None = None
    question: str | None = None
    """Its text, as the student reads it, and behind it the teacher's answer: in a job's own file of
    predictions, from the release on that serves it."""
    teacher_answer: str | None = None
    teacher_asked: bool = False
