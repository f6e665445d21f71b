"""What is said behind a mark: an answer with its reason, a denial, a doubt, or no answer at all.

An answer counts only where nothing said with it names another one: `12 (not 13)` is 12,
`12 (or 13)` is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from qcrd.method.answer_reading.readers import Reader
from qcrd.records.specs.task import AnswerKind


class Said(Enum):
    ANSWER = auto()
    DENIED = auto()
    """What the answer is not."""
    UNREADABLE = auto()


@dataclass(frozen=True)
class Statement:
    """`answer` is canonical, of a denial the denied one; `length` are the characters it is a
    function of."""

    said: Said
    answer: str | None
    length: int


MAX_REMARKS = 8
REASON = re.compile(
    r"\s*[,;:\u2013\u2014(-]*\s*(?:\b(?:because|since|due to|given that|as (?:it|they|he|she|the"
    r"|this|that"
    r"|we|there|in|shown)|based on|considering|so that|for the reason|weil|denn|da|parce que|car"
    r"|puisque|porque|ya que|pues|perch[eé]|poich[eé]|потому|так как|поскольку|omdat|want|çünkü)\b"
    r"|因为|因為|由于|由於|なぜなら|왜냐하면|لأن|क्योंकि)",
    re.IGNORECASE,
)
DENIAL = re.compile(
    r"(?:(?:definitely|certainly|clearly|surely|therefore|thus)\s+)?(?:not|isn't|n't|neither|never)"
    r"\b\s*:?\s*",
    re.IGNORECASE,
)
RATHER = re.compile(
    r"\s*,?\s*\bbut\s+(?:rather\s+|instead\s+)?|\s*[,;]\s*(?:it is|it's|it\u2019s|rather)\s+",
    re.IGNORECASE,
)
DENYING_REMARK = re.compile(
    r"(?:and\s+)?(?:(?:not|rather than|instead of|as opposed to|nicht|statt|pas|не)\b|而?不是"
    r"|并非)\s*",
    re.IGNORECASE,
)
DOUBTFUL_REMARK = re.compile(
    r"\b(?:or|maybe|perhaps|possibly|probably|might|could|may|if|unless|except|but|however"
    r"|at least|at most|about|around|approximately|roughly|more|less|fewer|up to|oder|ou|или|или|o"
    r"|vielleicht|wrong|incorrect|false|impossible|unsure|not sure|unclear|wait|actually"
    r"|alternatively"
    r"|either|both|and|plus|minus|to|each way|als auch|not)\b|或|还是|または|もしくは|か|또는|\?"
    r"|？",
    re.IGNORECASE,
)
SUFFIX = re.compile(
    r"\s+(?:is|as|being)\s+(?:the\s+|our\s+|my\s+)?(?:(?:correct|right|final|best)\s*)?"
    r"(?:answer|option|choice|one|result|label)?$",
    re.IGNORECASE,
)
INTENSIFIER = re.compile(
    r"^(?:therefore|thus|hence|clearly|definitely|certainly|simply|indeed|obviously|so"
    r"|then)\b,?\s+",
    re.IGNORECASE,
)
NUMBER_ENDING = re.compile(r"(?:です|である|だ|입니다|이다)$")
SENTENCE_END = re.compile(r"[.!?](?=[\s*_\"'\u201d\u2019»)\]]|$)|[。！？｡।]")
ABBREVIATION = re.compile(
    r"(?:^|[\s(.])(?:[A-Z]|mr|mrs|ms|dr|st|mt|prof|capt|gen|lt|col|sgt|rev|hon|jr|sr|vs|no|nos|fig"
    r"|eq|rs|fr|approx|ca|inc|ltd|co|corp|e\.g|i\.e|a\.m|p\.m|u\.s|d\.c|sq|cu|ft|fl|oz|lb|lbs|mio"
    r"|mrd|mln|тыс|млн|млрд)$",
    re.IGNORECASE,
)
LIST_ITEM = re.compile(r"\s*(?:\d{1,3}|[A-Za-z])[.)]\s+\S")
CONNECTIVE = re.compile(r"\s*(?:or|and|to|oder|ou|или|或|または|\+|/)(?:\s|$)", re.IGNORECASE)
DELIMITER = re.compile(r"\s*[,;]\s+|[，；、،]\s*|\s+[-\u2013\u2014]+\s+|\s*:\s+|\s*[(（\[]")


def read_statement(text: str, reader: Reader) -> Statement:
    """What the one line or sentence `text` says."""
    line = text.strip()
    if not line:
        return Statement(Said.UNREADABLE, None, len(text))
    if (answer := reader.read(line)) is not None:
        return Statement(Said.ANSWER, answer, len(text))
    length = find_sentence_end(text)
    sentence = text[:length].strip()
    if sentence.rstrip("*_\"' ").endswith(("?", "？")):
        return Statement(Said.UNREADABLE, None, length)
    said, answer = _read_sentence(INTENSIFIER.sub("", sentence), reader)
    if said is Said.ANSWER and not _fits_next(text[length:].strip(), sentence, answer, reader):
        said, answer = Said.UNREADABLE, None
    return Statement(said, answer, length)


def _fits_next(rest: str, sentence: str, answer: str | None, reader: Reader) -> bool:
    """Whether the rest of the line is not another answer: `A. beach`, `5. 6.`"""
    if not rest:
        return True
    position = 0
    for _ in range(MAX_REMARKS):
        length = find_sentence_end(rest[position:])
        other = reader.read(rest[position : position + length].strip())
        if other is not None and other != answer:
            return False
        position += length
        if position >= len(rest):
            break
    # `A. a kind of beach` is a letter and its text, `A. It is warm` two sentences.
    is_letter = re.fullmatch(r"\W*[A-Za-z]\W*", sentence) is not None
    return not (is_letter and rest[0].islower())


def find_sentence_end(text: str) -> int:
    """Where the first sentence ends, its closing marks included."""
    for found in SENTENCE_END.finditer(text):
        is_period = found[0] == "." and not _ends_in_letter_option(text, found.start())
        if is_period and ABBREVIATION.search(text[max(0, found.start() - 12) : found.start()]):
            continue
        closing = re.compile(r"[.!?*_\"'\u201d\u2019»)\]]*").match(text, found.end())
        return closing.end() if closing is not None else found.end()
    return len(text)


def _ends_in_letter_option(text: str, position: int) -> bool:
    """`B. Note that …`: a letter alone before the period is an option, no initial."""
    return re.fullmatch(r"[\s(*_\"']*(?:option\s+|choice\s+)?[A-Za-z]", text[:position]) is not None


def _read_sentence(sentence: str, reader: Reader) -> tuple[Said, str | None]:
    if (answer := _read_bare(sentence, reader)) is not None:
        return Said.ANSWER, answer
    if (denial := DENIAL.match(sentence)) is not None:
        return _read_denial(sentence[denial.end() :], reader)
    reason = REASON.search(sentence)
    if reason is not None and reason.start():
        # `B (because …` is cut behind the bracket's content, never inside of an answer.
        sentence = sentence[: reason.start()]
        if (answer := _read_bare(sentence, reader)) is not None:
            return Said.ANSWER, answer
    for core, remark in _split_remarks(sentence):
        if (answer := _read_bare(core, reader)) is not None:
            fits = _fits(remark, answer, reader)
            return (Said.ANSWER, answer) if fits else (Said.UNREADABLE, None)
    return Said.UNREADABLE, None


def _read_bare(text: str, reader: Reader) -> str | None:
    if (answer := reader.read(text)) is not None:
        return answer
    for ending in (SUFFIX, NUMBER_ENDING):
        cut = ending.sub("", text.rstrip(" .。"))
        if cut != text.rstrip(" .。") and (answer := reader.read(cut)) is not None:
            return answer
    return None


def _read_denial(rest: str, reader: Reader) -> tuple[Said, str | None]:
    """`not 4 but 6` is 6, `not 4` denies 4."""
    denied, *others = RATHER.split(rest, maxsplit=1)
    if others:
        said, answer = _read_sentence(others[0], reader)
        was = reader.read(denied)
        if was is None or said is not Said.ANSWER or was == answer:
            return Said.UNREADABLE, None
        return said, answer
    said, answer = _read_sentence(rest, reader)
    return (Said.DENIED, answer) if said is Said.ANSWER else (Said.UNREADABLE, None)


def _split_remarks(sentence: str) -> Iterator[tuple[str, str]]:
    """(core, remark) at each mark that can part them, the longest core first: an option's own text
    may have a comma."""
    found = list(DELIMITER.finditer(sentence))[:MAX_REMARKS]
    for delimiter in reversed(found):
        core = sentence[: delimiter.start()]
        # Of `**12** (not 13)` and `B, *bridge*`.
        yield core, sentence[delimiter.start() :]
    rather = re.search(r"\s(?:rather than|instead of|and not)\s", sentence, re.IGNORECASE)
    if rather is not None:
        yield sentence[: rather.start()], sentence[rather.start() :]


def _fits(remark: str, answer: str, reader: Reader) -> bool:
    """Whether the remark leaves the answer as it is: denies another, repeats it, or names none."""
    bracketed = remark.lstrip()[:1] in "(（["
    content = remark.strip(" ,;:，；、،\u2013\u2014-.。*_")
    if content[:1] in "(（[":
        content = content[1:].rstrip(" )）].。*_")
    if not content or REASON.match(content):
        return True
    if reader.read(content) == answer:
        return True
    if (denying := DENYING_REMARK.match(content)) is not None:
        denied = reader.read(content[denying.end() :])
        return denied is not None and denied != answer
    if DOUBTFUL_REMARK.search(content) is not None:
        return False
    mentioned = reader.mention(content)
    if reader.kind is AnswerKind.NUMBER:
        return bracketed and not mentioned and "," not in content and len(content) > 2
    return reader.has_options and not mentioned - {answer}
