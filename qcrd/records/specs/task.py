"""The task of a job: the form of its answers, its prompt, and which columns are its questions."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, StrictBool, model_validator

from qcrd.records.base import Record


class FewShotExample(Record):
    """A worked example in the few-shot prompt."""

    question: str
    """As the teacher is shown it."""
    explanation: str
    """The reasoning that is asked for."""
    answer: str
    """What it ends in."""


class AnswerKind(StrEnum):
    LABEL = "label"
    CHOICE = "choice"
    NUMBER = "number"
    MATH = "math"
    TEXT = "text"


QuestionField = Literal[
    "question", "label", "choices", "teacher_output", "teacher_outputs", "outputs", "rationales"
]
"""What a record of a data file may have besides columns of its own."""


class TaskSpec(Record):
    """The form of answers and the teacher's prompt."""

    answer: AnswerKind = AnswerKind.TEXT
    """What an answer is, and so how two are compared: `label` one of `labels`, `choice` one of the
    question's own, `number` and `math` by value, `text` word for word."""
    labels: tuple[str, ...] = ()
    """The answers that `answer: label` has."""
    instruction: str = ""
    """What the teacher is told before the examples and the question."""
    examples: tuple[FewShotExample, ...] = ()
    """Worked examples in the teacher's prompt, as turns where it chats."""
    fields: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    """Which columns of the job's files are `question`, `label`, `choices` and outputs: a column, a
    path into one, what stands before (`<<`) or behind (`>>`) a mark in one, a template of columns
    in braces, or several of these for a list. `label: gold != -1` leaves out records whose label
    is that value."""
    conversation: StrictBool = False
    """Whether a question is a whole conversation, so that students are asked the whole chat, not
    its last message. Set for files of chats with more than one message before the reply."""

    @model_validator(mode="after")
    def validate_labels(self) -> Self:
        folded = [label.casefold().strip() for label in self.labels]
        if len(set(folded)) != len(folded) or "" in folded:
            raise ValueError("labels must be distinct and not empty")
        if self.answer is AnswerKind.LABEL and len(self.labels) < 2:
            raise ValueError("answer kind `label` needs at least two labels")
        return self
