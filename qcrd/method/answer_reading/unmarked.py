"""Answers without a mark: all that is said after a thought, and an option in the last sentence."""

from __future__ import annotations

import re

from qcrd.method.answer_reading import options
from qcrd.method.answer_reading.corrections import SECOND_THOUGHTS
from qcrd.method.answer_reading.marks import find_marks
from qcrd.method.answer_reading.readers import MAX_ANSWER_CHARS, Reader
from qcrd.method.answer_reading.statements import Said, read_statement
from qcrd.method.answer_reading.turns import Turn
from qcrd.method.answer_reading.verdicts import Verdict
from qcrd.records.specs.task import AnswerKind

LAST_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
LETTER = re.compile(r"\(\s*([A-Za-z])\s*\)")
MAX_SENTENCE_CHARS = 2000


def read_unmarked(text: str, turn: Turn, reader: Reader) -> Verdict | None:
    """None where the turn has marks: then what they say is no answer."""
    said = text[turn.start : turn.end].strip()
    marks = find_marks(text, turn.start, turn.end)
    if not said or any(mark.strength for mark in marks):
        return None
    if text[turn.thought_start : turn.thought_end].strip() and len(said) <= MAX_ANSWER_CHARS:
        statement = read_statement(said.partition("\n")[0], reader)
        start = text.index(said, turn.start)
        whole = statement.said is Said.ANSWER and not SECOND_THOUGHTS.search(said)
        if whole and statement.answer is not None and ("\n" not in said or reader.has_options):
            return Verdict(statement.answer, start, (start, start + len(said)))
    return _read_last_sentence(text, turn, reader)


def _read_last_sentence(text: str, turn: Turn, reader: Reader) -> Verdict | None:
    """`…, Claire has the (A) blue present.`: one letter in brackets, and what it stands before
    agrees with it."""
    if not reader.has_options:
        return None
    end = turn.start + len(text[turn.start : turn.end].rstrip())
    tail_start = max(turn.start, end - MAX_SENTENCE_CHARS)
    *_, last = (None, *LAST_SENTENCE.finditer(text, tail_start, end))
    start = last.end() if last is not None else tail_start
    sentence = text[start:end]
    letters = LETTER.findall(sentence)
    if len(letters) != 1 or sentence.endswith("?"):
        return None
    found = LETTER.search(sentence)
    assert found is not None
    answer = _read_letter(found, sentence, reader)
    span = (start + found.start(), end)
    return None if answer is None else Verdict(answer, end, span)


def _read_letter(found: re.Match[str], sentence: str, reader: Reader) -> str | None:
    index = options.index_options(reader.options)
    behind = sentence[found.end() :].strip(" .!*_")
    before = sentence[: found.start()]
    if re.search(
        r"\b(?:not|or|nor|neither|never|if|could|might|may|perhaps|maybe|probably|would)\b|n't\b",
        before + behind,
    ):
        return None
    if index.are_letters:
        own = {option.strip() for option in reader.options}
        return reader.read(found[1]) if found[1] in own else None
    if reader.kind is not AnswerKind.CHOICE:
        return None
    return reader.read(found[0] + " " + behind if behind else found[0])
