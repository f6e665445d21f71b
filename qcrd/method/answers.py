"""From a teacher's or student's raw text to (rationale, canonical answer).

An answer is compared in canonical form only: a number's value, a label's name, an option's text.
What cannot be brought into that form is unparseable (None): counted, kept apart, never trained on.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from qcrd.method import arithmetic
from qcrd.records.rationales import Question
from qcrd.records.spec import AnswerKind, TaskSpec

EXPLANATION, ANSWER = "<Explanation>:", "<Answer>:"

LONGEST = 2000
"""Characters of an answer: longer ones are texts, and some of the patterns below take the square of
the length."""

# Where a model that was not stopped runs on into a question of its own making.
# White space is entered at its beginning only: a megabyte of it is read once, not once per place.
NEXT_QUESTION = re.compile(r"(?<!\s)[^\S\n]*+\n\s*+(?:Q|Question)\s*:")
TAGGED_ANSWER = re.compile(r"<?\bAnswer>?\s*:", re.IGNORECASE)
# "So the answer is (c) hotel.", "Therefore, the correct choice is (A) blue ball."
SPOKEN_ANSWER = re.compile(
    r"(?:(?:so|thus|hence|therefore)\b,?\s*)?\bthe\s+(?:correct\s+|final\s+|right\s+)*"
    r"(?:answer|choice|option)\s+(?:is|would be)\s*:?",
    re.IGNORECASE,
)
OPTION = re.compile(r"^\s*\(\s*([A-Za-z])\s*\)\s*|^\s*([A-Za-z])\s*[).:]\s+")
OPTION_ANYWHERE = re.compile(r"\(\s*([A-Za-z])\s*\)")
# Tokenizers that split words put spaces around punctuation: `t - shirt`.
SPLIT_PUNCTUATION = re.compile(r"(?:(?<!\s)\s++)?([^\w\s])\s*")
QUOTED = re.compile(r"""\W*["\u201c]([^"\u201d]+)["\u201d]""")
ARTICLE = re.compile(r"^(?:a|an|the)\s+")
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
ARITHMETIC_PREFIX = re.compile(r"^[\s$€£(]*[-+]?[\d(][\d\s()+\-*/.,\u00d7\u00f7]*")


@dataclass(frozen=True)
class Parsed:
    """A rationale that is not blank and the answer it ends in, in canonical form."""

    rationale: str
    answer: str


def question_id(text: str, choices: tuple[str, ...] = ()) -> str:
    """Stable across files: 24 hexadecimal digits of the SHA-256 of the text and the choices."""
    joined = "\x1f".join((text.strip(), *choices))
    return hashlib.sha256(joined.encode()).hexdigest()[:24]


def parse_output(text: str, task: TaskSpec, question: Question) -> Parsed | None:
    """Rationale and answer of one raw output; None if either is missing or cannot be read."""
    body = own_text(text)
    for pattern, pick_last in ((TAGGED_ANSWER, False), (SPOKEN_ANSWER, True)):
        if found := list(pattern.finditer(body)):
            mark = found[-1 if pick_last else 0]
            return _checked(body[: mark.start()], body[mark.end() :], task, question)
    return _option_in_last_sentence(body, task, question)


def own_text(text: str) -> str:
    """The output without the question it ran on into and without the leading tag."""
    body = NEXT_QUESTION.split(text, maxsplit=1)[0].strip()
    return body.removeprefix(EXPLANATION).strip()


def canonical(answer: str, task: TaskSpec, question: Question) -> str | None:
    """The one spelling under which equal answers are equal; None where it is none of the task's."""
    line = answer.strip().split("\n", 1)[0].strip()
    if len(line) > LONGEST:
        return None
    match task.answer:
        case AnswerKind.NUMBER:
            return _number(line)
        case AnswerKind.LABEL:
            return _one_of(line, task.labels)
        case AnswerKind.CHOICE:
            return _one_of(line, question.choices)
        case AnswerKind.TEXT:
            quoted = QUOTED.match(line)
            return _plain(quoted[1] if quoted else line) or None


def _checked(rationale: str, answer: str, task: TaskSpec, question: Question) -> Parsed | None:
    spelled = canonical(answer, task, question)
    reason = rationale.strip()
    return Parsed(reason, spelled) if spelled is not None and reason else None


def _option_in_last_sentence(body: str, task: TaskSpec, question: Question) -> Parsed | None:
    """The one option named in the closing sentence: `…, Claire has the (A) blue present.`"""
    if task.answer not in (AnswerKind.LABEL, AnswerKind.CHOICE):
        return None
    sentences = re.split(r"(?<=[.!?])\s+|\n+", body)
    closing = next((s for s in reversed(sentences) if s.strip()), "")
    named = set(OPTION_ANYWHERE.findall(closing))
    return _checked(body, f"({named.pop()})", task, question) if len(named) == 1 else None


def _plain(text: str) -> str:
    """Case, quotes, closing punctuation and a leading article do not make another answer."""
    joined = SPLIT_PUNCTUATION.sub(r"\1", text.casefold())
    return ARTICLE.sub("", joined.strip(" \t\"'`*.,;:!?")).strip()


def _one_of(line: str, options: tuple[str, ...]) -> str | None:
    """The first option that `line` names, by its text or its letter; equal options are one."""
    line = line.lstrip(" *_\"'")
    plain = [_plain(option) for option in options]
    if (said := _plain(line)) in plain:
        return options[plain.index(said)]
    if mark := OPTION.match(line):
        rest = _plain(line[mark.end() :])
        if rest in plain:
            return options[plain.index(rest)]
        return _by_letter((mark[1] or mark[2]).casefold(), options, plain)
    return None


def _by_letter(letter: str, options: tuple[str, ...], plain: list[str]) -> str | None:
    if letter in plain:  # labels that are letters themselves: A, B, C
        return options[plain.index(letter)]
    position = ord(letter) - ord("a")
    if position >= len(options) or all(len(option) == 1 for option in plain):
        return None
    return options[plain.index(plain[position])]


def _number(line: str) -> str | None:
    """`5 + 3 = 8 apples` is 8, `(84 / 2).` is 42, `$1,200` is 1200; two loose numbers are none."""
    side = line.rsplit("=", 1)[-1].strip(" \t\"'`*$€£")
    for candidate in (side, side.rstrip(".,;:!? ")):
        if (found := arithmetic.value(candidate)) is not None:
            return arithmetic.show(found)
    prefix = ARITHMETIC_PREFIX.match(side)
    if prefix and (found := arithmetic.value(prefix[0].strip(" $€£.,"))) is not None:
        return arithmetic.show(found)
    if any(sign in side for sign in "+*/()"):  # an expression that is no complete arithmetic
        return None
    numbers = NUMBER.findall(side)
    if len(numbers) == 1 and (found := arithmetic.value(numbers[0].rstrip(","))) is not None:
        return arithmetic.show(found)
    return None
