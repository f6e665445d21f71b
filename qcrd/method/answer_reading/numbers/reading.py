"""One number of a text by value; None wherever a careful reader could doubt which.

The whole text must be `[words that announce it] [sign] [currency] number [magnitude] [unit]`, an
arithmetic expression, a sum of like things, or an equation that ends in one of these. A second
number anywhere is a second value.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from qcrd.method import arithmetic
from qcrd.method.answer_reading import latex
from qcrd.method.answer_reading.characters import (
    BRACKETS,
    FORMULAS,
    MARKDOWN,
    QUOTES,
    unwrap,
)
from qcrd.method.answer_reading.numbers import spelled, units
from qcrd.method.answer_reading.numbers.forms import NO_FRACTIONS, read_unsigned, spell_digits

MAX_CHARS = 300

# `3:30`, `12:05 p.m.`, `3 pm`, `5 o'clock`; a ratio such as `16:9` is no number either.
TIME_OF_DAY = re.compile(
    r"\d\s?[:\uff1a]\s?\d|\b\d{1,2}\s*(?:[ap]m\b|[ap]\.\s?m\.|o['\u2019]clock\b)", re.IGNORECASE
)
DATE = re.compile(r"\b(?:\d{4}([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2\d{2,4})\b")
CURRENCY = re.compile(
    r"(?:(?:US|USD|AU|A|CA|C|HK|NT|NZ|S|R|MX)? ?[$€£¥₹₩₽₺₴₫฿₪₦¢₱]"
    r"|(?:USD|EUR|GBP|JPY|CNY|RMB|INR|KRW|CHF|AUD|CAD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|BRL|MXN|RUB|TRY"
    r"|ZAR|SGD|HKD|Rs\.?|Fr\.|kr\.?)(?![A-Za-z]))\s*"
)
SIGN = re.compile(r"(?:([-+])(?=[\d.$€£¥₹₩₽]|[A-Z]{1,3}\$)|(\u2212)\s?|(\u2013)(?=[\d$€£¥₹₩]))")
SIGN_WORD = re.compile(r"(?:minus|negative)\s+", re.IGNORECASE)
ARTICLED = r"(?:(?:a|an|the|its|their|his|her|my|our)\s+)?"
ANNOUNCED = re.compile(
    rf"{ARTICLED}(?:(?:grand|final|correct|right|new|overall|combined)\s+)*"
    r"(?:total|sum|result|value|answer|difference|product|average|mean|count|amount|number|cost"
    r"|price|area|perimeter|volume|speed|distance|height|length|width|age|profit|probability|ratio)"
    r"(?:\s+(?:of|is|was|are|equals|will be|would be|comes? to|amounts? to)(?![a-z])|\s*[:：])"
    r"+\s*(?:exactly\s+)?",
    re.IGNORECASE,
)
STATED = re.compile(
    r"(?:therefore|thus|hence|so|then)?,?\s*(?:(?:exactly|only|just|precisely|simply|equals?"
    r"|equal to|in total|altogether|a total of|there (?:are|is|were|was|will be)|it is|it's"
    r"|that is|which is|that's|(?:[A-Za-z]|he|she|we|they|you|i|it) (?:is|has|have|had|gets?|needs?"
    r"|equals))"
    r"(?![A-Za-z]))+,?\s*(?:exactly\s+|only\s+|now\s+|still\s+|a total of\s+)?",
    re.IGNORECASE,
)
# `John has 5 apples`, `They need 12 boxes`.
SENTENCE = re.compile(
    r"(?:[A-Za-z][A-Za-z']*\s+){1,5}?(?:has|have|had|needs?|costs?|gets?|got|makes?|made|earns?"
    r"|earned|spends?|spent|pays?|paid|bought|buys?|sold|sells?|ate|eats?|took|takes?|weighs?"
    r"|remain|equals?|will have|will need|will be|is|are|was|were)\s+(?:now\s+|left\s+)?"
    r"(?:exactly\s+|only\s+|a total of\s+)?(?=[-\u2212$€£¥\d])"
)
NEGATED = re.compile(
    r"\b(?:no|not|never|neither|nor|without|unless|if|when|n't|than|before|after|first|once|either"
    r"|both|and|or|about|least|most|twice|half|double|triple|each|every|maybe|could|might|guess)\b"
    r"|n't\b",
    re.IGNORECASE,
)
ARITHMETIC = re.compile(r"[\d\s.,()+\-\u2212*/×÷·^$€£]+")
BOLD_START = re.compile(r"^(?:\*\*|__)([^*_]+)(?:\*\*|__)(?=\s)")
DOUBTFUL_GROUP = re.compile(r"(?<![\d.,])[1-9]\d{0,2}[.,]\d{3}(?![\d.,]*\d)")
# A point between thousands, or a decimal one: the currency is of countries that write the first.
DOUBTFUL_POINT = re.compile(r"(?<![\d.,])[1-9]\d{0,2}\.\d{3}(?![\d.,])")
POINT_CURRENCY = re.compile(r"[€₺₫]|R\$|\b(?:EUR|BRL|DKK|TRY|kr|zł|Euros?)(?![a-z])", re.IGNORECASE)
SPLIT_DECIMAL = re.compile(r"([-+]?) ?(\d+) ?([.,]) ?(\d+)")
# In brackets `(8 - 3)` is arithmetic; the brackets say so.
OPERATOR = re.compile(r"[+=*/×÷]|\s[-\u2212]\s|\d-\d")
SPLIT_SIGN = re.compile(r"^([-+]) (?=[\d.$])")
UNKNOWN = re.compile(r"(?<![^\W\d_])[a-zA-Z](?![^\W\d_])|\d[a-zA-Z](?![a-zA-Z])|[\\^_]")
NUMBER_RELATION = re.compile(r"\b(?:twice|half|double|triple|times|and|or|if|not)\b", re.IGNORECASE)


class Quantity(NamedTuple):
    """A value and what it counts: currency and unit as they are written."""

    value: Fraction
    currency: str
    unit: str


def is_time_or_date(text: str) -> bool:
    """Whether the text holds a time of day, a ratio or a date, whose first number is not its
    value."""
    return TIME_OF_DAY.search(text) is not None or DATE.search(text) is not None


def join_split(text: str) -> str:
    """The text as it was before a tokenizer that splits words: `84. 0` is `84.0`, `- 5` is `-5`."""
    text = text.strip()
    if (found := SPLIT_DECIMAL.fullmatch(text)) is not None:
        return "".join(found.groups())
    return SPLIT_SIGN.sub(r"\1", text)


def read_number(text: str) -> Fraction | None:
    """The one value of the text; None where it has none, several or a doubtful one."""
    if len(text) > MAX_CHARS:
        return None
    bare = _lay_bare(spell_digits(text))
    if bare is None:
        return None
    plain, formula = bare
    if plain.endswith(("?", "!", "..", "…")) or is_time_or_date(plain):
        return None
    if DOUBTFUL_POINT.search(plain) and POINT_CURRENCY.search(plain):
        return None
    return _read_equation(plain, formula=formula)


def _lay_bare(text: str) -> tuple[str, bool] | None:
    """The text without markdown, quotes, brackets and LaTeX, and whether it was a formula."""
    formula = "\\boxed" in text
    for _ in range(4):
        inner = unwrap(text, (*MARKDOWN, *QUOTES), closing=" \t\n,;:。، ").strip()
        inner = BOLD_START.sub(r"\1", inner)
        inner = inner.removesuffix(".") if not inner.endswith("..") else inner
        inner = unwrap(inner, (*MARKDOWN, *QUOTES))
        maths = latex.unbox(unwrap(inner, FORMULAS))
        formula = formula or maths != inner
        inner = maths if OPERATOR.search(maths) else unwrap(maths, BRACKETS)
        if inner == text:
            break
        text = inner
    plain = latex.to_plain(text)
    if plain is None:
        return None
    return re.sub(r"\s+", " ", plain).strip(), formula


def _read_equation(text: str, *, formula: bool) -> Fraction | None:
    """What stands behind the last equals sign, if the rest does not contradict it."""
    *parts, last = text.split("=")
    result = _read_sum(last.strip(), formula=formula)
    if result is None or not parts:
        return result
    for index, part in enumerate(parts):
        value = _read_sum(part.strip(), formula=formula)
        if value is None:
            if index or not _is_left_side(part):
                return None
        elif value != result:
            return None
    return result


def _is_left_side(text: str) -> bool:
    """Whether it may name what the number is: `x`, `Total cost`, `15 books / 3 shelves`."""
    text = text.strip()
    if re.fullmatch(r"[a-zA-Z]", text):
        return True
    if any(mark in text for mark in ",;<>≤≥≠≈~±?!:"):
        return False
    return (
        UNKNOWN.search(text) is None
        and NUMBER_RELATION.search(text) is None
        and 0 < len(text.split()) <= 12
    )


def _read_sum(text: str, *, formula: bool) -> Fraction | None:
    quantity = _read_quantity(text, formula=formula)
    if quantity is not None:
        return quantity.value
    if (value := _read_expression(text)) is not None:
        return value
    if "+" not in text or len(text) > 120:
        return None
    terms = [_read_quantity(term.strip(), formula=formula) for term in text.split("+")]
    known = [term for term in terms if term is not None]
    if len(known) != len(terms) or len(terms) < 2:
        return None
    alike = {(term.currency, term.unit.casefold()) for term in known}
    return sum((term.value for term in known), Fraction(0)) if len(alike) == 1 else None


def _read_expression(text: str) -> Fraction | None:
    """Arithmetic by value. `8-3` and `8 - 3` alone may as well be a range, so they have none."""
    bare = re.sub("[$€£]", "", text).replace("\u2212", "-")
    if re.search(r"[-+*/×÷·^(]", bare) is None:
        return None
    if ARITHMETIC.fullmatch(text) is None or DATE.search(text) or "**" in text:
        return None
    if (
        "-" in text
        and not any(mark in text for mark in "(+*×÷·/^")
        and (text.count("-") == 1 or " - " not in text)
    ):
        return None
    if re.search(r"\d ?/ ?\d+ ?/", bare) or re.search(r"\d-\d", text):
        return None
    fraction = bare.replace(" ", "")
    if fraction in NO_FRACTIONS or re.fullmatch(r"(\d+)/\1", fraction):
        return None
    return arithmetic.evaluate_expression(bare.replace("·", "*"))


def _read_quantity(text: str, *, formula: bool) -> Quantity | None:
    text = _skip_announcement(text)
    if (found := SIGN_WORD.match(text)) is not None:
        inner = _read_quantity(text[found.end() :], formula=formula)
        return None if inner is None or inner.value < 0 else inner._replace(value=-inner.value)
    sign, position, currency = _read_sign_and_currency(text)
    if (number := read_unsigned(text, position)) is not None:
        value, end = number
        tail = text[end:]
    elif position == 0 and (words := spelled.read_words(text)) is not None:
        value, tail = words
        if re.match(r"\s*(?:of|that|which|who|where|more|thing|way|day|can)\b", tail.casefold()):
            return None  # `one of the boxes`
    else:
        return None
    factor, rest = units.read_magnitude(tail, currency=bool(currency))
    if not units.is_unit(rest, formula=formula or bool(currency)):
        return None
    return Quantity(sign * value * factor, currency, rest.strip())


def _skip_announcement(text: str) -> str:
    for pattern in (ANNOUNCED, STATED, SENTENCE):
        found = pattern.match(text)
        if found is not None and found.end() and NEGATED.search(found[0]) is None:
            text = text[found.end() :]
    return text


def _read_sign_and_currency(text: str) -> tuple[int, int, str]:
    """The sign, where the digits begin, and the currency: `-$5`, `$-5`."""
    position, sign, currency = 0, 0, ""
    for _ in range(2):
        if not currency and (found := CURRENCY.match(text, position)) is not None:
            currency, position = found[0].strip(), found.end()
        if not sign and (found := SIGN.match(text, position)) is not None:
            sign, position = (1 if found[1] == "+" else -1), found.end()
    return sign or 1, position, currency
