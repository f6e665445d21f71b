r"""Marks: what says that an answer follows. A tag, a box, a line `Answer:`, a phrase in prose.

Where several stand, the stronger ones go before a word in prose.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

from qcrd.method.answer_reading import latex

EXPLANATION_TAG, ANSWER_TAG = "<Explanation>:", "<Answer>:"
MAX_MARKS = 64
"""The last ones of an output: one that repeats itself has thousands."""
MAX_CHARS = 60_000
"""Of an output's end, three times what 8,192 tokens usually are: in an import's megabyte that ran
away, an answer before it is not looked for."""


class Strength(IntEnum):
    """How sure a mark is to be one."""

    CONCLUSION = 0
    PROSE = 1
    LINE = 2
    TAG = 3


@dataclass(frozen=True)
class Mark:
    """Where it begins and ends; a box has its content's end, a heading may be none at all."""

    start: int
    end: int
    strength: Strength
    content_end: int | None = None
    denies: bool = False
    is_heading: bool = False
    is_loose: bool = False
    """A word and a colon in prose, which may be none."""


ANSWER_WORDS = (
    "answer|ans|result|final result|antwort|endantwort|ergebnis|lösung|réponse|reponse|résultat"
    "|respuesta|solución|resultado|resposta|risposta|risultato|antwoord|odpowiedź|odpověď|odpoveď"
    "|ответ|відповідь|cevap|yanıt|svar|vastaus|válasz|răspuns|απάντηση|jawaban|đáp án|trả lời"
    "|câu trả lời|答案|答|最终答案|正确答案|最終答案|正確答案|答え|回答|解答|最終的な答え|정답"
    "|답|답변"
    "|최종 답|최종 답변|최종 정답|الإجابة|الجواب|إجابة|الإجابة النهائية|תשובה|उत्तर|जवाब|উত্তর"
    "|پاسخ|جواب|คำตอบ"
)
WORD_BEFORE = (
    r"(?:(?:the|my|our|so|thus|hence|therefore|and|final|correct|right|short|numerical|exact"
    r"|endgültige|richtige|finale|die|la|le|el|a|o|het|final|правильный|итоговый|окончательный)"
    r",?[ \t]+){0,4}"
)
WORD_AFTER = (
    r"(?:[ \t]+(?:finale?|correcta|correcte|correta|corretta|is|est|es|é|è|ist|lautet|cuối cùng"
    r"|النهائية|الصحيحة)){0,2}"
)


def _in_both_forms(words: str) -> str:
    """The words composed and decomposed: the text is matched as it is, for its offsets."""
    forms = {
        unicodedata.normalize(form, word) for form in ("NFC", "NFD") for word in words.split("|")
    }
    return "|".join(sorted(forms, key=lambda word: (-len(word), word)))


WORDS = _in_both_forms(ANSWER_WORDS)
# `as a result: 5 boxes` marks no answer.
SPOKEN_WORDS = _in_both_forms(
    re.sub(r"\|(?:[\w ]*r[eéi]s[uú]lt\w*|ans|ergebnis|lösung|solución)(?=\|)", "", ANSWER_WORDS)
)
TAG = re.compile(
    r"<\s?(?:final[_ -]?)?answer\s?>\s?:?|\[(?:final )?answer\]\s?:?|\bAnswer\s?>\s?:",
    re.IGNORECASE,
)
LINE = re.compile(
    rf"^[ \t\-*•>#_]*+{WORD_BEFORE}(?:{WORDS}){WORD_AFTER}"
    r"[ \t]*[*_`]{0,3}[ \t]*[:：=][ \t]*[*_]{0,3}",
    re.IGNORECASE | re.MULTILINE,
)
HEADING = re.compile(
    rf"^[ \t]*(?:[#*_]+[ \t]*){{1,2}}{WORD_BEFORE}(?:{WORDS})[ \t]*[*_:：]*[ \t]*$"
    rf"|^[ \t]*(?:the[ \t]+)?final answer[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
HASHES = re.compile(r"^[ \t]*####(?!#)[ \t]*(?=[^\s#])", re.MULTILINE)
ADJECTIVES = r"(?:\b(?:correct|final|right|best|only|proper|most \w+)\s+){0,3}"
PROSE = re.compile(
    rf"(?:\b(?:so|thus|hence|therefore)\b,?\s{{0,3}})?(?:\b(?:the|my|our|this)\s+)?{ADJECTIVES}"
    r"(?:\banswer|(?<=the )\b(?:choice|option)|(?<=correct )(?:choice|option|label)"
    r"|(?<=right )(?:choice|option)|(?<=best )(?:choice|option))"
    r"(?:\s+(?:to|for|of|in)\s+[^.\n:!?]{1,80}?)?"
    r"(?:\s+(?P<denies>is\s?n['\u2019]t|cannot\s+be|can['\u2019]t\s+be)\b"
    r"|\s+(?:is|are|would\s+be|should\s+be|must\s+be|will\s+be|equals)\b|\s*=)"
    r"(?:\s+(?:therefore|thus|then|hence|clearly|simply|definitely|certainly|indeed|hereby))?"
    r",?\s{0,3}[:：]?",
    re.IGNORECASE,
)
SPOKEN_PHRASES = (
    r"\b(?:(?:also|daher|somit|deshalb)\s+)?die\s+(?:(?:richtige|korrekte"
    r"|endgültige)\s+)?antwort\s+(?:ist|lautet)\b\s?:?",
    r"\b(?:la|donc la)\s+(?:bonne\s+)?réponse\s+(?:(?:finale|correcte)\s+)?est\b\s?:?",
    r"\bla\s+respuesta\s+(?:(?:correcta|final)\s+)?es\b\s?:?",
    r"\ba\s+resposta\s+(?:(?:correta|final)\s+)?é\s?:?",
    r"\bla\s+risposta\s+(?:(?:corretta|finale)\s+)?è\s?:?",
    r"\bhet\s+(?:(?:juiste|goede)\s+)?antwoord\s+is\b\s?:?",
    r"\b(?:правильный\s+)?ответ\s+[\u2014\u2013-]\s",
    r"(?:所以|因此)?，?(?:正确|最终|正確|最終)?答案(?:应该|應該|就)?(?:是|为|為)[:：]?",
    r"(?:したがって、|よって、)?(?:正しい)?(?:答え|正解|解答)は、?",
    r"(?:따라서\s)?(?:정답|답)은\s",
)
SPOKEN = re.compile(
    "|".join(unicodedata.normalize(form, p) for form in ("NFC", "NFD") for p in SPOKEN_PHRASES),
    re.IGNORECASE,
)
MIDDLE = re.compile(
    rf"(?:\b(?:so|thus|hence|therefore)\b,?\s{{0,3}})?(?:\b(?:the|my|our)\s+)?{ADJECTIVES}"
    rf"(?<![A-Za-z\u00c0-\u024f\u0370-\u05ff\"'])(?:{SPOKEN_WORDS})[ \t]?[*_]{{0,3}}[ \t]?[:：]",
    re.IGNORECASE,
)
# `So it is 5.` as the last sentence.
CONCLUSION = re.compile(
    r"(?:^|(?<=[.!?\n]))[ \t]*(?:so|thus|hence|therefore|then)\b,?[ \t]+(?:it(?:[ \t]+is"
    r"|['\u2019]s)"
    r"|that(?:[ \t]+is|['\u2019]s|[ \t]+makes)|there[ \t]+(?:are|is)|we[ \t]+(?:get|have)"
    r"|(?:what|this)[ \t]+is)[ \t]+(?=[^\n]{1,100}$)",
    re.IGNORECASE,
)
HYPOTHETICAL = re.compile(
    r"\b(?:if|whether|suppose|supposing|assume|assuming|check|checks|verify|unless|perhaps|maybe"
    r"|might|may|could|thought|guess|guessed|when|doubt|why|wenn|ob|si|als|если|如果|もし)"
    r"(?:\s+(?:that|think|say|be|you|one|i|we|first|was))*[,\s]*$"
    r"|\b(?:wrong|incorrect|previous|earlier|old|initial|first|another|possible|tempting|naive|common"
    r"|false|no|any|an?)\s*$",
    re.IGNORECASE,
)
BETWEEN = re.compile(r"[\s*_$`:=>(\[{\\\-]*(?:[a-zA-Z]\s*=\s*)?[\s$*_\\(\[]*")
SENTENCE_BREAK = re.compile(r"[.!?。！？](?=\s|$)|\n")


def find_marks(text: str, start: int, end: int) -> list[Mark]:
    """The marks of `text[start:end]` in order, those of one statement as one."""
    start = max(start, end - MAX_CHARS)
    found = sorted(
        (_take_opening(text, mark, start) for mark in _find_all(text, start, end)),
        key=lambda mark: (mark.start, -mark.end),
    )
    apart: list[Mark] = []
    for mark in found:
        if apart and mark.start < apart[-1].end:  # one inside of the other
            last = apart[-1]
            stronger = max(last, mark, key=lambda one: one.strength)
            apart[-1] = replace(
                stronger, start=last.start, end=max(last.end, mark.end), denies=last.denies
            )
            continue
        apart.append(mark)
    return _join_adjacent(text, apart[-MAX_MARKS:])


def _take_opening(text: str, mark: Mark, start: int) -> Mark:
    """The mark with the emphasis or the formula that opens straight before it."""
    opening = "*_$" if mark.content_end is not None else "*_"
    position = mark.start
    while position > start and text[position - 1] in opening:
        position -= 1
    return replace(mark, start=position)


def _find_all(text: str, start: int, end: int) -> Iterator[Mark]:
    for pattern, strength in ((TAG, Strength.TAG), (LINE, Strength.LINE)):
        yield from (Mark(*m.span(), strength) for m in pattern.finditer(text, start, end))
    yield from (Mark(*m.span(), Strength.LINE) for m in HEADING.finditer(text, start, end))
    for found in HASHES.finditer(text, start, end):
        yield Mark(*found.span(), Strength.TAG, is_heading=True)
    for pattern in (PROSE, SPOKEN, MIDDLE):
        for found in pattern.finditer(text, start, end):
            if not HYPOTHETICAL.search(text[max(start, found.start() - 60) : found.start()]):
                denies = pattern is PROSE and found["denies"] is not None
                loose = pattern is MIDDLE
                yield Mark(*found.span(), Strength.PROSE, denies=denies, is_loose=loose)
    yield from _find_boxes(text, start, end)
    tail = max(start, end - 300)
    for found in CONCLUSION.finditer(text[:end].rstrip(), tail):
        yield Mark(*found.span(), Strength.CONCLUSION)


def _find_boxes(text: str, start: int, end: int) -> Iterator[Mark]:
    position = start
    while (box := latex.find_box(text, position)) is not None and box[2] < end:
        yield Mark(box[0], box[1], Strength.TAG, content_end=box[2])
        position = box[2] + 1


def _join_adjacent(text: str, marks: list[Mark]) -> list[Mark]:
    """`**Final answer:** The answer is $\\boxed{5}$` is one mark that begins at the first."""
    joined: list[Mark] = []
    for mark in marks:
        gap = text[joined[-1].end : mark.start] if joined else "…"
        if joined and joined[-1].content_end is None and len(gap) < 60 and BETWEEN.fullmatch(gap):
            mark = replace(
                mark,
                start=joined[-1].start,
                strength=max(mark.strength, joined[-1].strength),
                denies=mark.denies or joined[-1].denies,
            )
            joined.pop()
        joined.append(mark)
    return joined


def find_sentence_start(text: str, position: int, start: int) -> int:
    """Where the sentence or line of `position` begins."""
    *_, last = (None, *SENTENCE_BREAK.finditer(text, max(start, position - 600), position))
    return last.end() if last is not None else max(start, position - 600)
