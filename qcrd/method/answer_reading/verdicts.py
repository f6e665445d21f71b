"""The answer of a turn: the last mark that holds one, unless something said after it, or a stronger
mark before it, says otherwise.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from qcrd.method.answer_reading import latex, texts
from qcrd.method.answer_reading.characters import unify
from qcrd.method.answer_reading.corrections import SECOND_THOUGHTS, read_correction
from qcrd.method.answer_reading.marks import Mark, Strength, find_marks, find_sentence_start
from qcrd.method.answer_reading.numbers.reading import DOUBTFUL_GROUP
from qcrd.method.answer_reading.readers import MAX_ANSWER_CHARS, Reader
from qcrd.method.answer_reading.statements import (
    CONNECTIVE,
    INTENSIFIER,
    LIST_ITEM,
    Said,
    Statement,
    find_sentence_end,
    read_statement,
)
from qcrd.records.specs.task import AnswerKind


class Verdict(NamedTuple):
    """The canonical answer, where its statement begins (and the rationale ends), and its span."""

    answer: str
    start: int
    span: tuple[int, int]


MAX_TAIL_CHARS = 20_000
CLOSING_TAG = re.compile(r"<\s?/\s?(?:final[_ ]?)?answer\s?>|\[/answer\]", re.IGNORECASE)
EXPLANATION = re.compile(
    r"\s*[*_#<]{0,4}\s?(?:explanation|reasoning|rationale|reason"
    r"|justification)\s?>?\s?[*_]{0,3}\s?:"
    r"[*_]{0,3}\s*",
    re.IGNORECASE,
)
GIVEN_UP = re.compile(
    r"\b(?:can(?:not|'t|\u2019t| not)|could(?: not|n't)|unknown|undetermined|undefined"
    r"|not (?:enough"
    r"|given|possible|sure|clear|known|determined)|impossible|none of|no answer|insufficient"
    r"|unclear|depends|don't know|do not know|indeterminate|n/a)\b",
    re.IGNORECASE,
)
AFTERWORD = re.compile(
    r"(?:this|that|it|the answer|note|because|since|explanation|i hope|hope|let me know|here|these"
    r"|we|therefore|so)\b",
    re.IGNORECASE,
)
# Behind a mark in another language `1.500` may be 1500.
POINT_LANGUAGE = re.compile(
    r"antwort|ergebnis|lösung|r[eé]ponse|r[eé]sultat|respuesta|soluci|resultado|resposta|rispost"
    r"|risultat|antwoord|odpow|odpov|ответ|відпов|cevap|yanıt|svar|vastaus|válasz|răspuns|απάντηση"
    r"|jawaban|đáp án|trả lời",
    re.IGNORECASE,
)
BEFORE_BOX = re.compile(
    r"(?:\b(?:or|and|not|between|from|to)\s*[\s$*_(]*|[-\u2212+/^\d]\s*)$", re.IGNORECASE
)


def find_verdict(text: str, start: int, end: int, reader: Reader) -> Verdict | None:
    """The answer that `text[start:end]` marks; None for none, several or a withdrawn one."""
    marks = [
        mark
        for mark in find_marks(text, start, end)
        if mark.strength or reader.kind not in (AnswerKind.TEXT, AnswerKind.MATH)
    ]
    denied = set[str | None]()
    for index in range(len(marks) - 1, -1, -1):
        mark = marks[index]
        limit = marks[index + 1].start if index + 1 < len(marks) else end
        span, statement = _read_mark(text, mark, limit, reader)
        if statement.said is Said.DENIED:
            denied.add(statement.answer)
            continue
        if statement.said is Said.UNREADABLE:
            if _is_no_answer(text[mark.end : limit], mark, reader):
                continue
            return None
        if statement.answer is None or statement.answer in denied:
            return None
        if _is_contradicted(text, marks[:index], mark, statement.answer, reader):
            return None
        return _settle(text, end, Verdict(statement.answer, mark.start, span), reader, mark)
    return None


def _read_mark(
    text: str, mark: Mark, limit: int, reader: Reader
) -> tuple[tuple[int, int], Statement]:
    """The span behind the mark and what it says."""
    if mark.content_end is not None:
        return _read_box(text, mark, limit, reader)
    first, last = _find_block(text, mark, limit)
    block = text[first:last]
    on_next_line = "\n" in text[mark.end : first]
    if reader.kind is AnswerKind.TEXT:
        return _read_text_block(text, first, last, mark, reader)
    line_end = first + (block + "\n").index("\n")
    line = text[first : min(line_end, first + MAX_ANSWER_CHARS + 1)]
    if _is_opened_bold(text, mark) and re.search(r"(?<![*_])(?:\*\*|__)[\s.]*$", line):
        line = re.sub(r"(?:\*\*|__)([\s.]*)$", r"\1", line)
    statement = read_statement("not " * mark.denies + line, reader)
    if (
        reader.kind is AnswerKind.NUMBER
        and DOUBTFUL_GROUP.search(line)
        and POINT_LANGUAGE.search(unify(text[mark.start : mark.end]))
    ):
        statement = Statement(Said.UNREADABLE, None, statement.length)
    if _is_list(text, first, line_end, last, reader, statement, on_next_line=on_next_line):
        statement = Statement(Said.UNREADABLE, None, statement.length)
    return (first, min(first + statement.length, line_end)), statement


def _find_block(text: str, mark: Mark, limit: int) -> tuple[int, int]:
    """From the first word behind the mark to a closing tag, the next mark or the turn's end."""
    closing = CLOSING_TAG.search(text, mark.end, limit)
    last = closing.start() if closing is not None else limit
    first = mark.end
    while first < last and text[first].isspace():
        first += 1
    return first, last


def _is_opened_bold(text: str, mark: Mark) -> bool:
    """`**Answer: 5**` opens before the mark what closes behind the answer."""
    said = text[mark.start : mark.end]
    before = text[max(0, mark.start - 3) : mark.start]
    return (said.count("**") + before.count("**")) % 2 == 1 or said.count("__") % 2 == 1


def _is_list(
    text: str,
    first: int,
    line_end: int,
    last: int,
    reader: Reader,
    statement: Statement,
    *,
    on_next_line: bool,
) -> bool:
    """Whether what was read is one item of several."""
    line = text[first:line_end]
    if LIST_ITEM.match(line) and (on_next_line or re.search(r"\s2[.)]\s", line)):
        whole = reader.read(line.strip())
        if whole is None or not reader.has_options:
            return True
    if statement.said is not Said.ANSWER:
        return False
    following = text[line_end : min(last, line_end + 500)].lstrip()
    if CONNECTIVE.match(following):
        return True
    next_line = following.partition("\n")[0].strip()
    next_line = INTENSIFIER.sub("", next_line)
    other = reader.read(next_line) if 0 < len(next_line) <= 200 else None
    return other is not None and other != statement.answer


def _read_box(
    text: str, mark: Mark, limit: int, reader: Reader
) -> tuple[tuple[int, int], Statement]:
    assert mark.content_end is not None
    content = text[mark.end : mark.content_end]
    position = mark.content_end + 1
    rest = text[position:limit]
    tail = re.sub(r"^(?:\s*(?:\$+|\\\)|\\\]|[*_]+))+", "", rest[: find_sentence_end(rest + " ")])
    tail = tail.partition("\n")[0].strip(" \t$*_.!。")
    span = (mark.end, position)
    before = text[find_sentence_start(text, mark.end, 0) : mark.end]
    before = re.sub(r"\\(?:boxed|fbox)\s*\{$", "", before)
    if BEFORE_BOX.search(before) or _has_other_box(before, content):
        return span, Statement(Said.UNREADABLE, None, len(content))
    if not tail:
        statement = read_statement(content, reader)
    elif reader.kind in (AnswerKind.MATH, AnswerKind.TEXT):
        answer = None if CONNECTIVE.match(tail) else reader.read(content)
        said = Said.UNREADABLE if answer is None else Said.ANSWER
        statement = Statement(said, answer, len(content))
    else:
        inner = re.sub(r"\\text\{\s*([^{}]*)\}$", r"\1", content)
        statement = read_statement(f"{inner} {tail}", reader)
        span = (mark.end, position + len(tail))
    return span, statement


def _has_other_box(before: str, content: str) -> bool:
    """Whether the sentence has a box before with something else: `\\boxed{3}, \\boxed{4}`."""
    other = latex.find_box(before)
    return other is not None and before[other[1] : other[2]].strip() != content.strip()


def _read_text_block(
    text: str, first: int, last: int, mark: Mark, reader: Reader
) -> tuple[tuple[int, int], Statement]:
    """A text may have lines and paragraphs; in prose it is what the sentence says."""
    block = text[first:last].rstrip()
    if mark.strength is Strength.PROSE:
        line = block.partition("\n")[0]
        sentence = line[: find_sentence_end(line)]
        head = re.split(r"\s+because\b|,\s+(?:because|since|as)\b", sentence, maxsplit=1)[0]
        if head.endswith("?"):
            return (first, first), Statement(Said.UNREADABLE, None, len(head))
        if mark.denies or re.match(r"not\b", head, re.IGNORECASE):
            return (first, first), Statement(Said.DENIED, reader.read(head[3:]), len(head))
        block = head or sentence
    elif mark.is_heading:
        block = block if "\n" not in block else ""
    elif "```" not in block and not block.startswith(("{", "[")):
        paragraphs = re.split(r"\n[ \t]*\n", block, maxsplit=1)
        if len(paragraphs) == 2 and AFTERWORD.match(paragraphs[1].lstrip()):
            block = paragraphs[0]
        elif SECOND_THOUGHTS.search(block, len(block.partition("\n")[0])):
            block = ""
    answer = texts.read_text(block)
    said = Said.UNREADABLE if answer is None else Said.ANSWER
    return (first, first + len(block)), Statement(said, answer, len(block))


def _is_no_answer(said: str, mark: Mark, reader: Reader) -> bool:
    """Whether a word in prose, or a heading, only looked like a mark: it names no value."""
    if mark.strength is Strength.CONCLUSION:
        return True
    line = said.lstrip()[:400].partition("\n")[0]
    weak = mark.is_loose or mark.is_heading
    if not weak or GIVEN_UP.search(line) is not None or not line:
        return False
    return not reader.mention(line[: find_sentence_end(line)])


def _is_contradicted(
    text: str, earlier: list[Mark], mark: Mark, answer: str, reader: Reader
) -> bool:
    """Whether the nearest stronger mark before says something else, and nothing took it back."""
    for index in range(len(earlier) - 1, -1, -1):
        other = earlier[index]
        limit = earlier[index + 1].start if index + 1 < len(earlier) else mark.start
        # The last of equal ones counts, but two texts may both be something else.
        if other.strength < mark.strength + (reader.kind is not AnswerKind.TEXT):
            continue
        if SECOND_THOUGHTS.search(text, other.end, mark.end):
            return False
        _, statement = _read_mark(text, other, limit, reader)
        if statement.said is Said.UNREADABLE and other.strength is Strength.PROSE:
            continue
        return statement.said is Said.UNREADABLE or (
            statement.said is Said.ANSWER and statement.answer != answer
        )
    return False


def _settle(text: str, end: int, verdict: Verdict, reader: Reader, mark: Mark) -> Verdict | None:
    """The verdict, or the one that corrects it behind; None where it is only taken back."""
    tail = text[verdict.span[1] : min(end, verdict.span[1] + MAX_TAIL_CHARS)]
    if (closing := CLOSING_TAG.match(tail.lstrip())) is not None:
        tail = tail.lstrip()[closing.end() :]
    if EXPLANATION.match(tail):
        return verdict
    if (doubt := SECOND_THOUGHTS.search(tail)) is None:
        return verdict
    corrected = read_correction(tail, doubt.start(), reader)
    if corrected is None:
        return None
    offset = min(end, verdict.span[1] + MAX_TAIL_CHARS) - len(tail)
    answer, (first, last) = corrected
    return Verdict(answer, verdict.start, (offset + first, offset + last))
