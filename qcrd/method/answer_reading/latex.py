r"""LaTeX as plain arithmetic, by rules: `\frac{3}{4}` is `3/4`, `1{,}200` is `1,200`.

Only what has one reading is rewritten. A command that is left over makes the whole no number.
"""

from __future__ import annotations

import math
import re

BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}")
FRACTION = re.compile(r"(\d?)\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
DIGIT_FRACTION = re.compile(r"\\[dtc]?frac\s*(\d)\s*(\d)(?!\d)")
SQUARE_ROOT = re.compile(r"(?<![\d)}])\\sqrt\s*\{(\d{1,15})\}")
EXPONENT = re.compile(r"\^\s*\{\s*([-+]?\d{1,4})\s*\}")
MAX_NESTING = 4

SAME: tuple[tuple[str, str], ...] = (
    *(("{,}", ","), ("\\!", ""), ("\\,", " "), ("\\;", " "), ("\\:", " "), ("\\ ", " ")),
    *(("~", " "), ("\\quad", " "), ("\\left", ""), ("\\right", ""), ("\\displaystyle", "")),
    *(("^{\\circ}", "°"), ("^\\circ", "°"), ("\\circ", "°"), ("\\degree", "°")),
    *(("\\$", "$"), ("\\%", "%"), ("\\times", "×"), ("\\cdot", "×"), ("\\div", "÷")),
    *(("\\&", "&"), ("\\euro", "€"), ("\\pounds", "£")),
)


def find_box(text: str, start: int = 0) -> tuple[int, int, int] | None:
    r"""Start of `\boxed{`, start and end of its content; None where none is complete."""
    while (opening := BOX.search(text, start)) is not None:
        end = _find_closing_brace(text, opening.end())
        if end is not None:
            return opening.start(), opening.end(), end
        start = opening.end()
    return None


def _find_closing_brace(text: str, start: int, limit: int = 500) -> int | None:
    depth = 1
    for position in range(start, min(len(text), start + limit)):
        if text[position] == "{" and text[position - 1] != "\\":
            depth += 1
        elif text[position] == "}" and text[position - 1] != "\\":
            depth -= 1
            if depth == 0:
                return position
    return None


def unbox(text: str) -> str:
    """The content of a box around the whole text."""
    for _ in range(MAX_NESTING):
        box = find_box(text)
        if box is None or text[: box[0]].strip() or text[box[2] + 1 :].strip(" \t\n."):
            break
        text = text[box[1] : box[2]].strip()
    return text


def to_plain(text: str) -> str | None:
    """The text without LaTeX; None where something has no plain form, such as a root of 3."""
    if "\\" not in text and "{" not in text:
        return text
    text = TEXT.sub(r" \1 ", text)
    for command, plain in SAME:
        text = text.replace(command, plain)
    text = DIGIT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = SQUARE_ROOT.sub(_evaluate_root, EXPONENT.sub(r"^\1", text))
    for _ in range(MAX_NESTING):
        text = FRACTION.sub(_write_fraction, text)
    return None if any(mark in text for mark in "\\{}") else text


def _evaluate_root(found: re.Match[str]) -> str:
    root = math.isqrt(int(found[1]))
    return str(root) if root * root == int(found[1]) else found[0]


def _write_fraction(found: re.Match[str]) -> str:
    r"""`3/4`, and `1 3/4` behind a whole number; other numerators are put in brackets."""
    whole, numerator, denominator = found[1], found[2].strip(), found[3].strip()
    if numerator.isdecimal() and denominator.isdecimal():
        rest = found.string[found.end() :].lstrip()
        fraction = f"{numerator}/{denominator}"
        alone = not found.string[: found.start()].strip("-+ 0123456789") and rest[:1] not in "^/×÷*"
        if whole or alone or not rest:
            return f"{whole} {fraction}" if whole else fraction
        return f"({fraction})"
    return found[0] if whole else f"(({numerator})/({denominator}))"
