r"""Mathematical answers in one spelling: numbers, expressions, points, sets, intervals, equations.

Numbers and the structure around expressions are read by rules: math-verify takes `(1,1)` for an
empty interval, `3 or 4` for a set and `5\%` for 1/20. Only an expression alone is given to it.
"""

from __future__ import annotations

import re

from qcrd.method import arithmetic
from qcrd.method.answer_reading import latex, texts
from qcrd.method.answer_reading.characters import FORMULAS, MARKDOWN, unify, unwrap
from qcrd.method.answer_reading.math import process
from qcrd.method.answer_reading.numbers.forms import spell_digits
from qcrd.method.answer_reading.numbers.reading import read_number

MAX_CHARS = 300
COMMANDS = frozenset(
    "frac dfrac tfrac cfrac sqrt cdot times div pi ln log sin cos tan cot sec csc arcsin arccos "
    "arctan exp alpha beta gamma delta theta lambda mu phi omega sigma rho tau epsilon infty "
    "left right".split()
)
COMMAND = re.compile(r"\\([A-Za-z]+|.)")
WORD = re.compile(r"(?<!\\)(?<![A-Za-z])[A-Za-z]{2,}")
WORDS = frozenset(
    "or and to is by in of sin cos tan log ln max min gcd lcm mod no if at as".split()
)
"""Two letters or more that are no product of unknowns, as math-verify would have it."""
EXPRESSION = re.compile(r"[A-Za-z\d\s+\-*/^_().{}|\\!]+$")
DECIMAL = re.compile(r"(?<![\d.])(\d{0,40})\.(\d{1,40})(?![\d.])")
# Two numbers side by side, towers and large powers, an end that is missing, `1/3 x`, `x2`.
DOUBTFUL = re.compile(
    r"\d\s+\d|\^\s*\{?-?\d{4}|\^\s*\{[^{}]*\^|[+\-*/^_]\s*$|\.(?!\d)"
    r"|/\s*(?:\d+|[a-z])\s*[a-zA-Z(\\]|(?<![\\a-zA-Z])[a-zA-Z]\d"
)
SPACING = re.compile(r"\\[,;:! ]|~|\\q?quad\b|\\displaystyle\b|\\left(?![a-z])|\\right(?![a-z])")
RELATIONS = {"\\leq": "<=", "\\le": "<=", "\\geq": ">=", "\\ge": ">=", "\\neq": "!=", "\\ne": "!="}
RELATION = re.compile(r"\\(?:leq?|geq?|neq?)(?![a-z])|[<>=≤≥≠]")
FLIPPED = {">": "<", ">=": "<="}
OPENING, CLOSING = "([{", ")]}"


def read_math(text: str) -> str | None:
    """The canonical spelling; None for what is no mathematics, or has no sure one."""
    if len(text) > MAX_CHARS:
        return None
    text = _lay_bare(text)
    if (words := texts.TEXT_COMMAND.match(text)) is not None:
        return texts.read_text(words[1])
    if text.rstrip().endswith(("?", "!")):
        return None
    return _read_relation(text)


def _lay_bare(text: str) -> str:
    text = unify(text).replace("\u2212", "-").strip()
    for _ in range(4):
        inner = unwrap(text, MARKDOWN, closing=" \t\n,;:。").removesuffix(".")
        inner = latex.unbox(unwrap(inner, FORMULAS))
        if inner == text:
            break
        text = inner
    return SPACING.sub(lambda found: "" if found[0] in ("\\!",) else " ", text).strip()


def _read_relation(text: str) -> str | None:
    found = list(RELATION.finditer(text))
    if not found:
        return _read_union(text)
    if len(found) > 1:
        return None
    sign = RELATIONS.get(found[0][0], found[0][0].translate({0x2264: "<=", 0x2265: ">="}))
    left, right = text[: found[0].start()].strip(), text[found[0].end() :].strip()
    if sign == "=" and re.fullmatch(r"[a-zA-Z]|[a-zA-Z]\([a-z]\)", left):
        value = _read_union(right)
        # `x = 7` is 7, but `y = 2x` is a line.
        if value is None or re.search(r"[a-z]", value) is None or left.endswith(")"):
            return value
    sides = [_read_single(left), _read_single(right)]
    if sides[0] is None or sides[1] is None or sign in ("≠", "!="):
        return None
    if sign in FLIPPED:
        sign, sides = FLIPPED[sign], sides[::-1]
    return f"{sides[0]} {sign} {sides[1]}"


def _read_union(text: str) -> str | None:
    parts = [_read_collection(part.strip()) for part in re.split(r"\\cup(?![a-z])|∪", text)]
    known = [part for part in parts if part is not None]
    if len(known) != len(parts):
        return None
    return " u ".join(sorted(set(known)))


def _read_collection(text: str) -> str | None:
    r"""`(1,2)`, `[0,1)`, `\{1,2\}`, `1, 2`: brackets count, and the order, but for a set's."""
    if text in ("\\emptyset", "\\varnothing", "∅", "\\{\\}"):
        return "{}"
    if (single := _read_number(text)) is not None:
        return single
    is_set = text.startswith("\\{") and text.endswith("\\}")
    left, inner, right = ("{", text[2:-2], "}") if is_set else (text[:1], text[1:-1], text[-1:])
    bracketed = is_set or (left in "([" and right in ")]" and len(text) > 2)
    if not bracketed or not _is_balanced(inner):
        left, inner, right, bracketed = "", text, "", False
    items = _split_at_commas(inner)
    if len(items) == 1 and not is_set:
        return _read_single(text)
    values = [_read_single(item.strip()) for item in items]
    known = [value for value in values if value is not None]
    if len(known) != len(values) or (not bracketed and any("=" in value for value in known)):
        return None
    return left + ",".join(sorted(set(known)) if is_set else known) + right


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character in OPENING) - (character in CLOSING)
        if depth < 0:
            return False
    return depth == 0


def _split_at_commas(text: str) -> list[str]:
    """At commas outside of brackets; LaTeX's `{,}` is inside of them."""
    items, depth = [""], 0
    for character in text:
        depth += (character in OPENING) - (character in CLOSING)
        if character == "," and depth == 0:
            items.append("")
        else:
            items[-1] += character
    return items


def _read_number(text: str) -> str | None:
    value = read_number(text)
    # In brackets `(1,200)` is a point, outside of them a number.
    if value is None or (text[:1] in "([" and "," in text):
        return None
    return arithmetic.format_number(value)


def _read_single(text: str) -> str | None:
    """A number, an unknown or an expression alone; infinities are names."""
    plain = text.replace("∞", "\\infty").replace(" ", "").removeprefix("+")
    if plain in ("\\infty", "-\\infty"):
        return plain.replace("\\infty", "oo")
    if (number := _read_number(text)) is not None:
        return number
    if re.fullmatch(r"[a-zA-Z]", text.strip()):
        return text.strip()
    expression = _prepare(text)
    return None if expression is None else process.spell_expression(expression)


def _prepare(text: str) -> str | None:
    """The text as it may be given to math-verify, decimals as fractions; None for anything else."""
    text = spell_digits(text).replace("\u2212", "-").replace("π", "\\pi").replace("·", "\\cdot ")
    text = text.replace("×", "\\times ").replace("√", "\\sqrt").replace("÷", "/")
    if not text.strip() or EXPRESSION.match(text) is None or not _is_balanced(text):
        return None
    if any(name not in COMMANDS for name in COMMAND.findall(text)):
        return None
    words = WORD.findall(text)
    if any(len(word) > 2 or word.casefold() in WORDS for word in words):
        return None
    if DOUBTFUL.search(text):
        return None
    return DECIMAL.sub(_write_fraction, text.strip())


def _write_fraction(found: re.Match[str]) -> str:
    return rf"\frac{{{int(found[1] + found[2])}}}{{1{'0' * len(found[2])}}}"
