"""Parses a teacher's or student's raw text into (rationale, canonical answer).

An answer is compared in canonical form only: a number's value, a label's name, an option's text.
Text without such an answer is unparseable (None): counted, kept apart, never trained on.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from qcrd.method import arithmetic
from qcrd.records.rationales import Question
from qcrd.records.spec import AnswerKind, TaskSpec

EXPLANATION_TAG, ANSWER_TAG = "<Explanation>:", "<Answer>:"

MAX_ANSWER_CHARS = 2000
"""Characters of an answer: longer ones are texts, and some of the patterns below take the square of
the length."""

# Where a model that was not stopped continues with a made-up question.
# Matches white space from its start only: a megabyte of it is scanned once, not per position.
NEXT_QUESTION = re.compile(r"(?<!\s)[^\S\n]*+\n\s*+(?:Q|Question)\s*:")
TAGGED_ANSWER = re.compile(r"<?\bAnswer>?\s*:", re.IGNORECASE)
# "So the answer is (c) hotel.", "Therefore, the correct choice is (A) blue ball."
ANSWER_PHRASE = re.compile(
    r"(?:(?:so|thus|hence|therefore)\b,?\s*)?\bthe\s+(?:correct\s+|final\s+|right\s+)*"
    r"(?:answer|choice|option)\s+(?:is|would be)\s*:?",
    re.IGNORECASE,
)
LEADING_OPTION = re.compile(r"^\s*\(\s*([A-Za-z])\s*\)\s*|^\s*([A-Za-z])\s*[).:]\s+")
# "B", "b.", "(B" and "Option B" as a whole answer.
OPTION_ALONE = re.compile(
    r"^\s*(?:(?:option|choice)\s+)?\(?\s*([A-Za-z])\s*\)?[\s*_\"'`.:,;!]*$", re.IGNORECASE
)
OPTION_ANYWHERE = re.compile(r"\(\s*([A-Za-z])\s*\)")
# Tokenizers that split words put spaces around punctuation: `t - shirt`.
SPLIT_PUNCTUATION = re.compile(r"(?:(?<!\s)\s++)?([^\w\s])\s*")
QUOTED_TEXT = re.compile(r"""\W*["\u201c]([^"\u201d]+)["\u201d]""")
LEADING_ARTICLE = re.compile(r"^(?:a|an|the)\s+")
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
# `3:30`, `12:05 p.m.`, `3 pm`, `5 o'clock`; a ratio such as `16:9` is no number either.
TIME_OF_DAY = re.compile(
    r"\d\s?[:\uff1a]\s?\d|\b\d{1,2}\s*(?:[ap]m\b|[ap]\.\s?m\.|o['\u2019]clock\b)", re.IGNORECASE
)
DATE = re.compile(r"\b(?:\d{4}([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2\d{4})\b")
ARITHMETIC_PREFIX = re.compile(r"^[\s$€£(]*[-+]?[\d(][\d\s()+\-*/.,\u00d7\u00f7]*")


@dataclass(frozen=True)
class ParsedOutput:
    """A non-blank rationale and the answer it ends in, in canonical form."""

    rationale: str
    answer: str


def question_id(text: str, choices: tuple[str, ...] = ()) -> str:
    """Stable across files: 24 hexadecimal digits of the SHA-256 of the text and the choices."""
    joined = "\x1f".join((text.strip(), *choices))
    return hashlib.sha256(joined.encode()).hexdigest()[:24]


def comparison_id(text: str, choices: tuple[str, ...] = ()) -> str:
    """The `question_id` of what an uncased reader sees: equal where only white space, the form of
    characters and case differ."""
    return question_id(_fold(text), tuple(_fold(choice) for choice in choices))


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def parse_output(text: str, task: TaskSpec, question: Question) -> ParsedOutput | None:
    """Rationale and answer of one raw output; None if either is missing or unparseable."""
    body = clean_output(text)
    for pattern, pick_last in ((TAGGED_ANSWER, False), (ANSWER_PHRASE, True)):
        if matches := list(pattern.finditer(body)):
            tag_match = matches[-1 if pick_last else 0]
            return _make_parsed_output(
                body[: tag_match.start()], body[tag_match.end() :], task, question
            )
    return _parse_option_in_last_sentence(body, task, question)


def clean_output(text: str) -> str:
    """The output without a made-up next question and without the leading tag."""
    body = NEXT_QUESTION.split(text, maxsplit=1)[0].strip()
    return body.removeprefix(EXPLANATION_TAG).strip()


def canonicalize(answer: str, task: TaskSpec, question: Question) -> str | None:
    """The canonical spelling of an answer; None for a text that is no answer to the task."""
    first_line = answer.strip().split("\n", 1)[0].strip()
    if len(first_line) > MAX_ANSWER_CHARS:
        return None
    match task.answer:
        case AnswerKind.NUMBER:
            return _parse_number(first_line)
        case AnswerKind.LABEL:
            return _match_option(first_line, task.labels)
        case AnswerKind.CHOICE:
            return _match_option(first_line, question.choices) or _match_letter_alone(
                first_line, question.choices
            )
        case AnswerKind.TEXT:
            quoted = QUOTED_TEXT.match(first_line)
            return _normalize(quoted[1] if quoted else first_line) or None


def _make_parsed_output(
    rationale: str, answer: str, task: TaskSpec, question: Question
) -> ParsedOutput | None:
    canonical_answer = canonicalize(answer, task, question)
    stripped_rationale = rationale.strip()
    return (
        ParsedOutput(stripped_rationale, canonical_answer)
        if canonical_answer is not None and stripped_rationale
        else None
    )


def _parse_option_in_last_sentence(
    body: str, task: TaskSpec, question: Question
) -> ParsedOutput | None:
    """The one option named in the closing sentence: `…, Claire has the (A) blue present.`"""
    if task.answer not in (AnswerKind.LABEL, AnswerKind.CHOICE):
        return None
    sentences = re.split(r"(?<=[.!?])\s+|\n+", body)
    last_sentence = next((s for s in reversed(sentences) if s.strip()), "")
    letters = set(OPTION_ANYWHERE.findall(last_sentence))
    return (
        _make_parsed_output(body, f"({letters.pop()})", task, question)
        if len(letters) == 1
        else None
    )


def _normalize(text: str) -> str:
    """The text without case, quotes, closing punctuation and a leading article."""
    joined = SPLIT_PUNCTUATION.sub(r"\1", text.casefold())
    return LEADING_ARTICLE.sub("", joined.strip(" \t\"'`*.,;:!?")).strip()


class OptionIndex(NamedTuple):
    """Options by their normalized texts, the first of equal ones; in order; and whether they are
    letters themselves."""

    by_text: Mapping[str, str]
    normalized: tuple[str, ...]
    are_letters: bool


@lru_cache(maxsize=1024)
def _index_options(options: tuple[str, ...]) -> OptionIndex:
    """Once for all answers to a task: it may have thousands of labels."""
    normalized = tuple(_normalize(option) for option in options)
    by_text = dict(reversed(list(zip(normalized, options, strict=True))))
    are_letters = all(len(option) == 1 and option.isalpha() for option in normalized)
    return OptionIndex(by_text, normalized, are_letters)


def _match_option(text: str, options: tuple[str, ...]) -> str | None:
    """The first option that `text` names, by its text or its letter; equal options are one."""
    text, index = text.lstrip(" *_\"'"), _index_options(options)
    if (option := index.by_text.get(_normalize(text))) is not None:
        return option
    if letter_match := LEADING_OPTION.match(text):
        rest = index.by_text.get(_normalize(text[letter_match.end() :]))
        letter = (letter_match[1] or letter_match[2]).casefold()
        return _match_letter(letter, index) if rest is None else rest
    return None


def _match_letter_alone(text: str, options: tuple[str, ...]) -> str | None:
    """The option that an answer of nothing but its letter names: `B`, `Option B.`"""
    letter_match = OPTION_ALONE.match(text.lstrip(" *_\"'"))
    if letter_match is None:
        return None
    return _match_letter(letter_match[1].casefold(), _index_options(options))


def _match_letter(letter: str, index: OptionIndex) -> str | None:
    if letter in index.by_text:  # labels that are letters themselves: A, B, C
        return index.by_text[letter]
    position = ord(letter) - ord("a")
    if position >= len(index.normalized) or index.are_letters:
        return None
    return index.by_text[index.normalized[position]]


def is_time_or_date(text: str) -> bool:
    """Whether the text holds a time of day, a ratio or a date, whose first number is not its
    value."""
    return TIME_OF_DAY.search(text) is not None or DATE.search(text) is not None


def _parse_number(text: str) -> str | None:
    """`5 + 3 = 8 apples` is 8, `(84 / 2).` is 42, `$1,200` is 1200; two loose numbers are none, nor
    are times of day and dates."""
    right_hand_side = text.rsplit("=", 1)[-1].strip(" \t\"'`*$€£")
    if is_time_or_date(right_hand_side):
        return None
    for candidate in (right_hand_side, right_hand_side.rstrip(".,;:!? ")):
        if (number := arithmetic.evaluate_expression(candidate)) is not None:
            return arithmetic.format_number(number)
    prefix = ARITHMETIC_PREFIX.match(right_hand_side)
    if prefix and (number := arithmetic.evaluate_expression(prefix[0].strip(" $€£.,"))) is not None:
        return arithmetic.format_number(number)
    if any(
        sign in right_hand_side for sign in "+*/()"
    ):  # an expression that is no complete arithmetic
        return None
    numbers = NUMBER.findall(right_hand_side)
    if (
        len(numbers) == 1
        and (number := arithmetic.evaluate_expression(numbers[0].rstrip(","))) is not None
    ):
        return arithmetic.format_number(number)
    return None
