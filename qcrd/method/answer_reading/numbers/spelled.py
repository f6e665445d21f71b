"""English numbers in words, by value: `twenty-five`, `one hundred and two`, `one and a half`."""

from __future__ import annotations

import re
from fractions import Fraction

UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
SMALL: dict[str, int] = {
    **{word: value for value, word in enumerate(UNITS)},
    **{word: 10 * value for value, word in enumerate(TENS, 2)},
}
SCALES: dict[str, int] = {
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
PARTS: dict[str, int] = {
    **{"half": 2, "halves": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7},
    **{"eighth": 8, "ninth": 9, "tenth": 10, "hundredth": 100, "thousandth": 1000},
}
ANY = re.compile(
    r"\b(?:" + "|".join((*SMALL, *SCALES, *PARTS, "hundred", "dozen", "quarter", "both", "couple",
                        "twice", "double", "triple", "first", "second", "once", "thrice", "none"))
    + r")(?:s|th)?\b",
    re.IGNORECASE,
)  # fmt: skip
"""A word that says a number, an order or a share."""
WORD = re.compile(r"[a-z]+")
MAX_WORDS = 14


def read_words(text: str) -> tuple[Fraction, str] | None:
    """The value of the words that the text begins with, and the rest; None where it begins with
    other words."""
    words = [(found[0], found.end()) for found in WORD.finditer(text.casefold()[:200])]
    if WORD.match(text.casefold()) is None:
        return None
    for count in range(min(len(words), MAX_WORDS), 0, -1):
        rest = text[words[count - 1][1] :]
        gaps = WORD.sub(" ", text[: words[count - 1][1]].casefold())
        if gaps.strip(" -"):  # punctuation between words
            continue
        value = _evaluate([word for word, _ in words[:count]])
        if value is not None:
            return value, rest
    return None


def _evaluate(words: list[str]) -> Fraction | None:
    match words:
        case ["half"] | ["a" | "one", "half"]:
            return Fraction(1, 2)
        case ["a", "hundred" | "thousand" | "million" | "billion" | "dozen" as scale]:
            return _evaluate(["one", scale])
        case [*whole, "and", "a", "half"] if whole:
            value = _evaluate_whole(whole)
            return None if value is None else value + Fraction(1, 2)
        case [*count, "dozen"] if count:
            value = _evaluate_whole(count)
            return None if value is None else Fraction(12 * value)
        case [count, part] if count in SMALL and part.removesuffix("s") in PARTS:
            below = PARTS[part.removesuffix("s")]
            # `one third` but not `twenty fifth`, which is a place in a row.
            return Fraction(SMALL[count], below) if 0 < SMALL[count] < below else None
    value = _evaluate_whole(words)
    return None if value is None else Fraction(value)


def _evaluate_whole(words: list[str]) -> int | None:
    """`two million three hundred thousand and five`: scales fall from left to right."""
    total, last_scale, group = 0, 10**15, list[str]()
    for word in words:
        if word not in SCALES:
            group.append(word)
            continue
        below = _evaluate_hundreds(group)
        if not below or SCALES[word] >= last_scale:
            return None
        total, last_scale, group = total + below * SCALES[word], SCALES[word], []
    if not group:
        return total if total else None
    if total and group[0] == "and":
        group = group[1:]
    below = _evaluate_hundreds(group)
    if below is None or (total and not below):
        return None
    return total + below


def _evaluate_hundreds(words: list[str]) -> int | None:
    match words:
        case [only] if only in SMALL:
            return SMALL[only]
        case [tens, unit] if tens in TENS and unit in SMALL and 0 < SMALL[unit] < 10:
            return SMALL[tens] + SMALL[unit]
        case [hundreds, "hundred", *rest] if 0 < SMALL.get(hundreds, 0) < 100:
            if rest[:1] == ["and"]:
                rest = rest[1:]
                if not rest:
                    return None
            below = _evaluate_hundreds(rest) if rest else 0
            if below is None or below >= 100:
                return None
            return SMALL[hundreds] * 100 + below
    return None
