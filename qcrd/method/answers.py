"""Parses a teacher's or student's raw text into (rationale, canonical answer).

An answer is compared in canonical form only: a number's value, a label's name, an option's text.
Text without such an answer is unparseable (None): counted, kept apart, never trained on. So is one
that a careful reader could read in two ways: the vote trusts what is read.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass

from qcrd.method.answer_reading import objects
from qcrd.method.answer_reading.last_value import find_last_value
from qcrd.method.answer_reading.marks import EXPLANATION_TAG
from qcrd.method.answer_reading.readers import MAX_ANSWER_CHARS, Reader
from qcrd.method.answer_reading.statements import Said, read_statement
from qcrd.method.answer_reading.turns import Turn, find_turn
from qcrd.method.answer_reading.unmarked import read_unmarked
from qcrd.method.answer_reading.verdicts import EXPLANATION, Verdict, find_verdict
from qcrd.records.rationales import Question
from qcrd.records.specs.task import AnswerKind, TaskSpec

EXPLANATION_MARK = re.compile(r"\A(?:\s*<\s?/?Explanation\s?>\s?:?)+", re.IGNORECASE)
EXPLANATION_END = re.compile(r"<\s?/\s?Explanation\s?>\s*\Z", re.IGNORECASE)
CLOSING_TAG = re.compile(r"<\s?/\s?answer\s?>", re.IGNORECASE)


@dataclass(frozen=True)
class ParsedOutput:
    """A non-blank rationale and the answer it ends in, in canonical form.

    `span` are the offsets in the output of the text that the answer is a function of; None where
    the answer was not read but trusted.
    """

    rationale: str
    answer: str
    span: tuple[int, int] | None = None


def question_id(text: str, choices: tuple[str, ...] = ()) -> str:
    """Stable across files: 24 hexadecimal digits of the SHA-256 of the text and the choices."""
    joined = "\x1f".join((text.strip(), *choices))
    return hashlib.sha256(joined.encode()).hexdigest()[:24]


def repeat_id(text: str, choices: tuple[str, ...] = ()) -> str:
    """The `question_id` of the text in one form of its characters: equal for questions that are
    one. Case, white space inside and `x²` for `x2` tell two apart, as they do in code and in
    formulas."""
    return question_id(_normalize(text), tuple(_normalize(choice) for choice in choices))


def _normalize(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def comparison_id(text: str, choices: tuple[str, ...] = ()) -> str:
    """The `question_id` of what an uncased reader sees: equal where only white space, the form of
    characters, case and what is not seen at all differ. For warnings: two such questions may be
    two."""
    return question_id(_fold(text), tuple(_fold(choice) for choice in choices))


def _fold(text: str) -> str:
    if not text.isascii():
        seen = unicodedata.normalize("NFKC", text)
        text = "".join(each for each in seen if unicodedata.category(each) != "Cf")
    return " ".join(text.casefold().split())


def canonical(answer: str, task: TaskSpec, question: Question) -> str | None:
    """The canonical spelling of an answer; None for a text that is no answer to the task."""
    reader = Reader.make(task, question)
    if reader.kind is AnswerKind.TEXT:
        return reader.read(answer)
    if reader.has_options and (option := reader.read(answer)) is not None:
        return option  # one whose text has lines of its own
    first_line, _, rest = answer.strip().partition("\n")
    if len(first_line) > MAX_ANSWER_CHARS:
        return None
    if (answered := reader.read_split(first_line)) is not None:
        return answered if not rest.strip() or reader.has_options else None
    statement = read_statement(first_line, reader)
    return statement.answer if statement.said is Said.ANSWER and not rest.strip() else None


def parse_output(text: str, task: TaskSpec, question: Question) -> ParsedOutput | None:
    """Rationale and answer of one raw output; None if either is missing or unparseable."""
    turn, reader = find_turn(text), Reader.make(task, question)
    if turn is None:
        return None
    if (found := objects.find_object(text, turn.start, turn.end)) is not None:
        before = text[turn.start : found[0]]
        if objects.is_answer_object(found[2], reader) and "nswer>" not in before:
            return _parse_object(text, turn, objects.read_object(found, reader))
    elif objects.is_broken_object(text, turn.start, turn.end):
        return None
    verdict = find_verdict(text, turn.start, turn.end, reader)
    if verdict is None:
        verdict = read_unmarked(text, turn, reader)
    if verdict is None:
        return None
    rationale = _get_rationale(text, turn, verdict)
    return ParsedOutput(rationale, verdict.answer, verdict.span) if rationale else None


def read_last_value(text: str, task: TaskSpec, question: Question) -> ParsedOutput | None:
    """The whole text as rationale of the last value in it; None if there is none."""
    turn, reader = find_turn(text), Reader.make(task, question)
    verdict = None if turn is None else find_last_value(text, turn, reader)
    if turn is None or verdict is None:
        return None
    rationale = _clean(text[turn.start : turn.end])
    return ParsedOutput(rationale, verdict.answer, verdict.span) if rationale else None


def _parse_object(text: str, turn: Turn, found: objects.ObjectAnswer | None) -> ParsedOutput | None:
    if found is None:
        return None
    rationale = (
        found.explanation
        or _clean(text[turn.start : found.start])
        or _clean(text[turn.thought_start : turn.thought_end])
    )
    return ParsedOutput(rationale, found.answer, (found.start, found.end)) if rationale else None


def _get_rationale(text: str, turn: Turn, verdict: Verdict) -> str:
    """What was said before the answer, else what was thought, else what is marked behind it."""
    said = _clean(text[turn.start : verdict.start])
    if said:
        return said
    if thought := _clean(text[turn.thought_start : turn.thought_end]):
        return thought
    behind = CLOSING_TAG.sub("", text[verdict.span[1] : turn.end], count=1)
    explained = EXPLANATION.match(behind)
    return _clean(behind[explained.end() :]) if explained is not None else ""


def _clean(text: str) -> str:
    """The text without its tags."""
    text = text.strip().removeprefix(EXPLANATION_TAG)
    return EXPLANATION_END.sub("", EXPLANATION_MARK.sub("", text)).strip()
