"""What is said behind an answer: that it was wrong, and what it should have been."""

from __future__ import annotations

import re

from qcrd.method.answer_reading.readers import Reader
from qcrd.method.answer_reading.statements import Said, read_statement
from qcrd.records.specs.task import AnswerKind

SECOND_THOUGHTS = re.compile(
    r"\b(?:wait|oops|scratch that|made an? (?:mistake|error)|my (?:mistake|bad)|on second thought"
    r"|i meant|correction|let me (?:re|double|check|fix|correct|try)\w*|let's (?:re|double"
    r"|check)\w*"
    r"|that(?:'s| is| was|\u2019s) (?:wrong|incorrect|not right|not correct|off|a mistake)"
    r"|(?:i|i'm|answer|it) ?(?:is|was|am)? (?:wrong|incorrect|mistaken)|off by|sorry|apolog\w+"
    r"|misread|miscounted"
    r"|edit(?=\s?:)|update(?=\s?:)|revised|amended"
    r"|(?:it|this|that|answer) (?:can't|cannot|can not|could not) be|not enough information"
    r"|insufficient"
    r"|no answer|i (?:don't|do not) know|not sure|miscalculated|should (?:have been|actually"
    r"|rather)|reconsider\w*|recheck\w*|double-check\w*"
    r"|korrektur|corrección|correção|correction|correzione|moment mal|attendez|erreur|perdón"
    r"|извините|исправление|ошиб\w+)\b"
    r"|(?:^|[.!?;\n\u2013\u2014]|\s-)\s{0,3}(?:(?:no|nope|nein|non|нет)[,.!:\u2014-]|(?:but|or"
    r"|however"
    r"|actually|hm+|alternatively|rather|hold on|espera|pero|mais|aber|oder|подожди|но|или)\b)"
    r"|不对|不對|等等|等一下|更正|订正|訂正|待って|しかし|아니|잠깐|但是",
    re.IGNORECASE,
)
CORRECTED = re.compile(
    r"(?:\b(?:it|this|that|(?:the\s+)?(?:correct|right|actual|true|real)\s+(?:value|one|number"
    r"|result"
    r"|total|option|choice|label))(?:\s+(?:is|should\s+be|must\s+be)\b|['\u2019]s\b)"
    r"|\bi\s+meant\b|\bcorrection\s?:|\bmake\s+(?:that|it)\b|\bshould\s+be\b)\s?:?"
    r"(?:\s+(?:actually|really|rather|in fact))?",
    re.IGNORECASE,
)


def read_correction(tail: str, start: int, reader: Reader) -> tuple[str, tuple[int, int]] | None:
    """The answer that the last correction of `tail[start:]` names, and its span; None where it
    names none, or is doubted in its turn. A text's end cannot be told, so none corrects a text."""
    *_, last = (None, *CORRECTED.finditer(tail, start))
    if last is None or reader.kind in (AnswerKind.TEXT, AnswerKind.MATH):
        return None
    line = tail[last.end() :].partition("\n")[0]
    statement = read_statement(line, reader)
    end = last.end() + statement.length
    if statement.said is not Said.ANSWER or statement.answer is None:
        return None
    if SECOND_THOUGHTS.search(tail, end):
        return None
    return statement.answer, (last.end(), end)
