"""The last value of a text that is an answer to its task, whether or not anything marks it.

For texts that are known to end in their answer: of others it would be a guess.
"""

from __future__ import annotations

import re

from qcrd.method.answer_reading.readers import Reader
from qcrd.method.answer_reading.turns import Turn
from qcrd.method.answer_reading.verdicts import Verdict
from qcrd.records.specs.task import AnswerKind

NUMBER = re.compile(
    r"(?<![\w.,/])[-+\u2212]?\s?[$\u20ac\u00a3\u00a5]?\s?\d[\d,.\u00a0\u202f]*"
    r"(?:\s?/\s?\d+)?\s?%?"
)
FORMULA = re.compile(r"\$([^$\n]{1,200})\$|\\\((.{1,200}?)\\\)")
QUOTED = re.compile(r"[\"\u201c\u00ab]([^\"\u201c\u201d\u00ab\u00bb\n]{1,200})[\"\u201d\u00bb]")
BEHIND_COLON = re.compile(r"[:=]\s*([^\s:=][^:=\n]{0,199})$", re.MULTILINE)
MORE_BEHIND = re.compile(
    r"\s?(?:(?:million|billion|trillion|thousand|hundred|dozen|percent)\b|[\u00d7\u00b2\u00b3^!:]"
    r"|x\s?10|e\d|[\u2013-]\s?\d|\s(?:of|remainder)\b)",
    re.IGNORECASE,
)
MORE_BEFORE = re.compile(
    r"(?:\b(?:not|minus|between|from|remainder|step|section|source|confidence:?)|[\u221a^(\[]"
    r"|\d\s?[\u2013:,-]|\bbetween .{1,20} and|\d \w+ and)\s*$",
    re.IGNORECASE,
)
DENIAL = re.compile(
    r"\b(?:not|never|cannot|neither|nor|would|could)\b|n['\u2019]t\b", re.IGNORECASE
)
MAX_LOOK_CHARS = 30
SENTENCE = re.compile(r"[^.!?\n]+(?:\.(?=\d)[^.!?\n]*)*")


def find_last_value(text: str, turn: Turn, reader: Reader) -> Verdict | None:
    """None where there is none, or where the last sentence that names an option names several."""
    if reader.has_options:
        return _find_last_option(text, turn, reader)
    patterns = {
        AnswerKind.NUMBER: (NUMBER,),
        AnswerKind.MATH: (FORMULA, NUMBER),
        AnswerKind.TEXT: (QUOTED, BEHIND_COLON),
    }[reader.kind]
    for pattern in patterns:
        for found in reversed(list(pattern.finditer(text, turn.start, turn.end))):
            group = next((n for n, each in enumerate(found.groups(), 1) if each is not None), 0)
            said = found[group].rstrip(" .,;:\u00a0\u202f")
            if _belongs_to_more(text, found.start(), found.start(group) + len(said), turn):
                return None
            if (answer := reader.read(said.strip())) is not None:
                return Verdict(
                    answer, turn.end, (found.start(group), found.start(group) + len(said))
                )
    return None


def _belongs_to_more(text: str, start: int, end: int, turn: Turn) -> bool:
    """Whether the value is a part of one that is written with words and signs, or a denied one."""
    behind = text[end : min(turn.end, end + MAX_LOOK_CHARS)]
    before = text[max(turn.start, start - MAX_LOOK_CHARS) : start]
    return MORE_BEHIND.match(behind) is not None or MORE_BEFORE.search(before) is not None


def _find_last_option(text: str, turn: Turn, reader: Reader) -> Verdict | None:
    for sentence in reversed(list(SENTENCE.finditer(text, turn.start, turn.end))):
        named = reader.mention(sentence[0])
        if len(named) > 1:
            return None
        if named and DENIAL.search(sentence[0]):
            return None
        if named:
            (option,) = named
            answer = reader.read(option)
            return None if answer is None else Verdict(answer, turn.end, sentence.span())
    return None
