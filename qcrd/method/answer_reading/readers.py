"""How a span that holds nothing but an answer is read, for each kind of answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qcrd.method import arithmetic
from qcrd.method.answer_reading import options, texts
from qcrd.method.answer_reading.math.answers import read_math
from qcrd.method.answer_reading.numbers import spelled
from qcrd.method.answer_reading.numbers.reading import join_split, read_number
from qcrd.records.rationales import Question
from qcrd.records.specs.task import AnswerKind, TaskSpec

MAX_ANSWER_CHARS = 2000
"""Characters of an answer that is no text: longer ones are something else."""


@dataclass(frozen=True)
class Reader:
    """The answers that a question of a task can have."""

    kind: AnswerKind
    options: tuple[str, ...]

    @classmethod
    def make(cls, task: TaskSpec, question: Question) -> Reader:
        own = {AnswerKind.LABEL: task.labels, AnswerKind.CHOICE: question.choices}
        return cls(task.answer, own.get(task.answer, ()))

    @property
    def has_options(self) -> bool:
        return self.kind in (AnswerKind.LABEL, AnswerKind.CHOICE)

    def read(self, text: str) -> str | None:
        """The canonical answer that the whole text is."""
        if len(text) > MAX_ANSWER_CHARS and self.kind is not AnswerKind.TEXT:
            return None
        match self.kind:
            case AnswerKind.NUMBER:
                number = read_number(text)
                return None if number is None else arithmetic.format_number(number)
            case AnswerKind.LABEL | AnswerKind.CHOICE:
                by_letter = self.kind is AnswerKind.CHOICE
                return options.read_option(text, self.options, by_letter=by_letter)
            case AnswerKind.MATH:
                return read_math(text)
            case AnswerKind.TEXT:
                return texts.read_text(text)

    def read_split(self, text: str) -> str | None:
        """As `read`, of a text whose tokenizer put spaces around punctuation."""
        joined = join_split(text) if self.kind is AnswerKind.NUMBER else text
        return self.read(text) if joined == text else self.read(joined)

    def mention(self, text: str) -> set[str]:
        """The options that the text names somewhere; for numbers, its digits and number words."""
        if self.has_options:
            index = options.index_options(self.options)
            named = options.mention(text, index)
            if self.kind is AnswerKind.CHOICE and not index.are_letters:
                named |= options.mention_letters(text, index)
            return named
        return {*re.findall(r"\d+", text), *spelled.ANY.findall(text)}
