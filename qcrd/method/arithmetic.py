"""Arithmetic expressions by value, without `eval`: `( 84.0 / 2.0 )`, `10 - (3 + 6)`, `1,200`.

Exact rationals, so `0.1 + 0.2` equals `0.3` and `1 / 3` equals `2 / 6`.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

# A longer "expression" in a model's output is a runaway repetition, and deep nesting costs time.
MAX_CHARACTERS = 200
# `1e999999999` is short, but as an exact number it would exhaust memory.
MAX_EXPONENT = 308
# 1,200 digits: Python refuses to format more than 4,300.
MAX_BITS = 4000

OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}

# Tokenizers that split words put spaces around a decimal point: `84. 0`.
DECIMAL_POINT = re.compile(r"(?<=\d)\s*\.\s*(?=\d)")
# Python's grammar refuses `007`; behind a digit, a point or an exponent's `e` zeros do count.
LEADING_ZEROS = re.compile(r"(?<![\w.])0+(?=\d)")
THOUSANDS_SEPARATOR = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def evaluate_expression(expression: str) -> Fraction | None:
    """The value; None where it is not complete arithmetic over + - * / ^ and parentheses."""
    text = (
        THOUSANDS_SEPARATOR.sub("", DECIMAL_POINT.sub(".", expression.strip()))
        .replace("\u00d7", "*")
        .replace("\u00f7", "/")
    )
    if not text or len(text) > MAX_CHARACTERS:
        return None
    if "**" in text:
        return None
    text = LEADING_ZEROS.sub("", text).replace("^", "**")
    try:
        result = _evaluate_node(ast.parse(text, mode="eval").body, text)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None
    bits = max(result.numerator.bit_length(), result.denominator.bit_length())
    return result if bits <= MAX_BITS else None


def _evaluate_node(node: ast.expr, text: str) -> Fraction:
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            # From the source, not from the float: Fraction("0.1") is exact, Fraction(0.1) is not.
            return _parse_literal(ast.get_source_segment(text, node) or "")
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate_node(operand, text)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _evaluate_node(operand, text)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _raise(_evaluate_node(left, text), _evaluate_node(right, text))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_evaluate_node(left, text), _evaluate_node(right, text))
    raise ValueError(f"not arithmetic: {ast.dump(node)[:80]}")


def _raise(base: Fraction, exponent: Fraction) -> Fraction:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or abs(exponent) * bits > MAX_BITS:
        raise ValueError(f"not a power that is an answer: {exponent}")
    return base ** int(exponent)


def _parse_literal(number: str) -> Fraction:
    exponent = number.lower().partition("e")[2]
    if exponent and abs(int(exponent)) > MAX_EXPONENT:
        raise ValueError(f"{number} is too large or too small to be an answer")
    return Fraction(number)


def format_number(number: Fraction) -> str:
    """One spelling per value: `42`, `-3`, `5/2`."""
    return str(number)
