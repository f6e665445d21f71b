"""Texts, JSON and mathematics in one spelling; what differs stays apart."""

from __future__ import annotations

import sys

import pytest

from qcrd.method.answer_reading.math.answers import read_math
from qcrd.method.answer_reading.math.process import MathProcess
from qcrd.method.answer_reading.texts import read_text


@pytest.mark.parametrize(
    "equal",
    [
        ("Paris", "“Paris”.", "«Paris»", "**paris**", "Paris\u3002", "the Paris"),
        ("re\u0301sume\u0301", "r\u00e9sum\u00e9"),
        ('{"a": 1, "b": 2}', '{"b":2,\n"a":1}', '```json\n{"a": 1, "b": 2}\n```'),
        ("- milk\n- eggs", "- milk  \n- eggs\n"),
        ("C++", "c++."),
    ],
)
def test_equal_texts_have_one_spelling(equal: tuple[str, ...]) -> None:
    assert len({read_text(text) for text in equal}) == 1


def test_texts_that_differ_stay_apart() -> None:
    texts = (
        *('{"a": 1}', '{"a": 2}', '{"a": "1"}', '{"a": 1, "a": 1}', "[1, 2]", "[2, 1]", '["A"]'),
        *('{"x": 0.1}', '{"x": 0.10000000000000000001}', "- milk\n- eggs", "- milk\n- bread"),
        *('"Hamlet" and "Othello"', '"Hamlet" and "Macbeth"', "C", "C++", "C#", "5²", "52", "½"),
        *("def f(x):\n    return x", "def f(x):\nreturn x", "北京", "南京", "A*", "A", "-5", "5"),
    )
    assert len({read_text(text) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    "equal",
    [
        ("\\frac{1}{2}", "0.5", "$\\frac12$", "\\boxed{1/2}"),
        ("2\\sqrt{3}", "\\sqrt{12}", "$2 \\sqrt3$", "\\frac{6}{\\sqrt{3}}"),
        ("x^2-1", "(x-1)(x+1)", "(x - 1)(1 + x)."),
        ("\\{1,2\\}", "\\{2, 1\\}"),
        ("x = 7", "7", "\\boxed{7}"),
        ("0.1x", "\\frac{x}{10}"),
        ("2\\pi", "2π"),
        ("x < 3", "3 > x"),
        ("(-\\infty, 1) \\cup (2, 3)", "(2,3)\\cup(-\\infty,1)"),
    ],
)
def test_equal_mathematics_has_one_spelling(equal: tuple[str, ...]) -> None:
    spellings = {read_math(text) for text in equal}
    assert len(spellings) == 1
    assert None not in spellings


def test_mathematics_that_differs_stays_apart() -> None:
    texts = (
        *("(1,2)", "(2,1)", "(1,1)", "(2,2)", "[1,2]", "[1,2)", "\\{1,2\\}", "1,2", "(1,200)"),
        *("1200", "\\pi", "3.14", "y = 2x", "y = 3x", "x < 3", "x \\le 3", "x^2", "2^x"),
    )
    assert len({read_math(text) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    "said",
    [
        *("3 or 4", "x = 1, y = 2", "\\pm 2", "1/3 x", "2x3", "sin x", "10!", "x?", "", "not 5"),
        *("9^{9^{9}}", "__import__('os')", "\\input{a}", "\\boxed{}", "x" * 400, "a < b < c"),
    ],
)
def test_doubtful_mathematics_is_none(said: str) -> None:
    assert read_math(said) is None


def test_a_process_that_hangs_or_dies_is_replaced() -> None:
    echo = "import sys\nfor line in sys.stdin:\n"
    hanging = MathProcess((sys.executable, "-c", f"{echo} input()"), max_seconds=0.5)
    assert hanging.spell("x") is None
    dying = MathProcess((sys.executable, "-c", ""), max_seconds=20)
    assert (dying.spell("x"), dying.spell("x")) == (None, None)
    alive = MathProcess((sys.executable, "-c", f"{echo} print(line.strip(), flush=True)"))
    assert (alive.spell("x"), alive.spell("y")) == ("x", "y")


def test_what_takes_too_long_is_none_and_the_next_is_read() -> None:
    assert read_math("(x+1)^{999}(x+2)^{999}") is None
    assert read_math("x + x") == "2*x"
