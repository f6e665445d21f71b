"""Numbers in digits, by value: grouped thousands of several locales, fractions, powers.

A form that two locales read as different numbers (`1,5`, `1.234,567`) has no value.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from qcrd.method.answer_reading.characters import unify

MAX_EXPONENT = 308
"""As in `arithmetic`: more is no answer, and as an exact number it would exhaust memory."""

SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
VULGAR_FRACTION = re.compile("(\\d?)([\u00bc-\u00be\u2150-\u215e])")
SIGNS = {
    **{ord(mark): "\u2212" for mark in "\u2212\ufe63"},
    **{ord(mark): "-" for mark in "\u2010\u2011\uff0d"},
    **{ord("\u2012"): "\u2013", ord("\u066b"): ".", ord("\u066c"): ",", ord("\u066a"): "%"},
    **{ord("\u2044"): "/", ord("\u2215"): "/", ord("\u22c5"): "·", ord("∙"): "·", ord("∗"): "*"},
}
"""One minus sign, one hyphen, one dash; Arabic's separators; the fraction's stroke."""

# Behind a number no digit may follow, nor a mark and a digit: `12:05`, `1,5`, `3.5.2`.
END = r"(?![.,:'’_]?\d)"
NUMBER = re.compile(
    r"(?:(?P<comma>[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?)"
    r"|(?P<indian>[1-9]\d?(?:,\d{2})+,\d{3}(?:\.\d+)?)"
    r"|(?P<point>[1-9]\d{0,2}(?:\.\d{3}){2,}(?:,\d{1,2})?)"
    r"|(?P<european>[1-9]\d{0,2}\.\d{3},\d{1,2})"
    r"|(?P<space>[1-9]\d{0,2}(?: \d{3})+(?:[.,]\d{1,2})?(?!\s?/))"
    r"|(?P<mark>[1-9]\d{0,2}(?:(?:'\d{3})+|(?:_\d{3})+)(?:\.\d+)?)"
    r"|(?P<plain>(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,4}(?![A-Za-z]))?))" + END
)
POINT_PARTS = ("point", "european")
FRACTION = re.compile(r"(?:(\d{1,9}) )?(\d{1,18}) ?/ ?(\d{1,18})(?! ?[/\d.,]|\d)" + END)
POWER = re.compile(r" ?\^ ?\(?([-+\u2212]?\d{1,4})\)?(?!\d)" + END)
SCIENTIFIC = re.compile(r" ?[×x*·] ?10(?: ?\^ ?\(?|(?=[-\u2212]))([-+\u2212]?\d{1,4})\)?" + END)
NO_FRACTIONS = frozenset({"24/7", "50/50", "9/11", "7/11"})
"""Written like fractions, and said for something else."""


def spell_digits(text: str) -> str:
    """The text with ASCII digits, one sign for each meaning, `1 1/2` for `1½` and `^2` for `²`."""
    if text.isascii():
        return text
    text = VULGAR_FRACTION.sub(_spell_fraction, text)
    text = SUPERSCRIPT.sub(lambda found: "^" + found[0].translate(SUPERSCRIPTS), text)
    text = unify(text.translate(SIGNS)).translate(SIGNS)
    return "".join(
        str(unicodedata.decimal(c)) if unicodedata.category(c) == "Nd" else c for c in text
    )


def _spell_fraction(found: re.Match[str]) -> str:
    sign = unicodedata.normalize("NFKC", found[2]).replace("\u2044", "/")
    return f"{found[1]} {sign}" if found[1] else sign


def read_unsigned(text: str, start: int = 0) -> tuple[Fraction, int] | None:
    """The value of the number at `start`, and where it ends; None where none stands there."""
    return _read_fraction(text, start) or _read_number(text, start)


def _read_fraction(text: str, start: int) -> tuple[Fraction, int] | None:
    found = FRACTION.match(text, start)
    if found is None or int(found[3]) == 0 or found[0] in NO_FRACTIONS:
        return None
    if found[1] is None:
        if found[2] == found[3]:
            return None  # `20/20` is a score
        return Fraction(int(found[2]), int(found[3])), found.end()
    if int(found[2]) >= int(found[3]):
        return None  # `3 5/4` is no mixed number
    return int(found[1]) + Fraction(int(found[2]), int(found[3])), found.end()


def _read_number(text: str, start: int) -> tuple[Fraction, int] | None:
    found = NUMBER.match(text, start)
    if found is None or re.match(r" ?/ ?\d", text[found.end() : found.end() + 3]):
        return None
    value = _convert(found)
    if value is None:
        return None
    if (exponent := SCIENTIFIC.match(text, found.end())) is not None:
        return _scale(value, Fraction(10), exponent)
    if (exponent := POWER.match(text, found.end())) is not None:
        return _scale(Fraction(1), value, exponent)
    return value, found.end()


def _scale(value: Fraction, base: Fraction, found: re.Match[str]) -> tuple[Fraction, int] | None:
    exponent = int(found[1].replace("\u2212", "-"))
    size = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent)
    if abs(exponent) > MAX_EXPONENT or size > 4 * MAX_EXPONENT or (base == 0 and exponent <= 0):
        return None
    return value * base**exponent, found.end()


def _convert(found: re.Match[str]) -> Fraction | None:
    name = found.lastgroup or "plain"
    digits = found[name]
    if len(digits) > 2 * MAX_EXPONENT:
        return None
    if name in POINT_PARTS:
        digits = digits.replace(".", "").replace(",", ".")
    elif name == "space":
        digits = digits.replace(" ", "").replace(",", ".")
    elif name != "plain":
        digits = re.sub("[,'_]", "", digits)
    exponent = re.search("[eE](.*)", digits)
    if exponent is not None and abs(int(exponent[1])) > MAX_EXPONENT:
        return None
    return Fraction(digits)
