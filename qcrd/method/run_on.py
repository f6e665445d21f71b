"""Outputs that run on: behind its answer a model that nothing stops makes up the next question, in
the form of the prompt that it was given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

ItemT_co = TypeVar("ItemT_co", covariant=True)

MIN_SHARE, MIN_OUTPUTS = 0.05, 3
"""Of the outputs, that have a mark at the beginning of a paragraph for it to count as repeated."""
MIN_ANSWERED_SHARE = 0.8
"""Of the outputs with that mark, that have an answer before it. A step's heading has none."""
MAX_EXAMINED = 2000
"""Outputs looked at: enough to see what repeats."""
PARAGRAPH, MARK_END = r"\n[^\S\n]*\n\s*[*_#>]{0,4}\s?", r"\s?\d{0,3}[*_]{0,2}[:\uff1a]"
LINE = r"\n\s*[*_#>]{0,4}\s?"
HEADING = r"([^\W\d_][^:\n]{0,39}?)"
MARKS = [re.compile(f"{beginning}{HEADING}{MARK_END}") for beginning in (PARAGRAPH, LINE)]
"""Of a paragraph or, where none repeats, of a line."""
OWN_PARTS = re.compile(
    r"(?:final |the |my |correct )*(?:answer|explanation|reasoning|rationale|reason|justification"
    r"|solution|result|conclusion|note|check|verification|summary|therefore|thus|so|hence|step"
    r"|option|choice|proof|hint)s?\b",
    re.IGNORECASE,
)
"""Headings of an output's own parts, of which the one behind the answer may explain it."""


class Places(Protocol[ItemT_co]):
    """Items by their places from 0, which may be read as they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> ItemT_co: ...


class Reading(NamedTuple):
    """Whether a text has an answer, and whether that is the label; None without a label."""

    has_answer: bool
    is_right: bool | None = None


@dataclass
class _Evidence:
    count: int = 0
    answered: int = 0
    labelled: int = 0
    right_before: int = 0
    right_whole: int = 0
    in_question: int = 0

    def is_next_question(self, examined: int) -> bool:
        """Where the answers before the mark are right more often than those of the whole outputs. A
        part of an output, such as its second attempt, has the better answer behind it."""
        is_repeated = self.count >= max(MIN_OUTPUTS, MIN_SHARE * examined)
        if not is_repeated or self.answered < MIN_ANSWERED_SHARE * self.count:
            return False
        if self.labelled:
            return self.right_before > self.right_whole
        return 2 * self.in_question > self.count


def find_next_question_mark(
    outputs: Places[tuple[str, str]], read: Callable[[int, str], Reading]
) -> str | None:
    """The heading that a made-up next question begins with, such as `Premise`; None where none
    repeats. `outputs` are pairs of question and output; `read` reads a text as the one at a place.
    Without labels the heading has to be one of the questions' own.
    """
    found = (_find_mark(outputs, read, pattern) for pattern in MARKS)
    return next((mark for mark in found if mark is not None), None)


def list_examined(count: int) -> range:
    """The places of so many outputs that are looked at, and no others."""
    return range(0, count, max(1, count // MAX_EXAMINED))


def _find_mark(
    outputs: Places[tuple[str, str]],
    read: Callable[[int, str], Reading],
    pattern: re.Pattern[str],
) -> str | None:
    places = list_examined(len(outputs))
    marks = dict[str, _Evidence]()
    for place in places:
        question, output = outputs[place]
        # Of several the first: the others belong to the question that was made up.
        found = pattern.search(output)
        if found is None or OWN_PARTS.match(found[1]):
            continue
        evidence = marks.setdefault(found[1], _Evidence())
        before, whole = read(place, output[: found.start()]), read(place, output)
        evidence.count += 1
        evidence.answered += before.has_answer
        evidence.labelled += before.is_right is not None
        evidence.right_before += bool(before.is_right)
        evidence.right_whole += bool(whole.is_right)
        evidence.in_question += f"{found[1]}:" in question
    if not marks:
        return None
    mark, evidence = max(marks.items(), key=lambda each: each[1].count)
    return mark if evidence.is_next_question(len(places)) else None


def cut_at_mark(output: str, mark: str) -> str:
    """What comes before the first line that begins with the heading."""
    found = re.search(f"{LINE}{re.escape(mark)}{MARK_END}", output)
    return output if found is None else output[: found.start()]


def cut_at_stop(output: str, stop: Sequence[str]) -> str:
    """What comes before the first of the `stop` sequences."""
    ends = [output.index(sequence) for sequence in stop if sequence in output]
    return output[: min(ends, default=len(output))]
