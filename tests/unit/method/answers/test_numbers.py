"""Numbers as models write them: by value, and none where a careful reader could doubt which."""

from __future__ import annotations

from fractions import Fraction

import pytest

from qcrd.method.answer_reading.numbers.reading import read_number

VALUES: dict[str, dict[str, str]] = {
    "minus": {
        **{"−12.5": "-12.5", "–12": "-12", "− 5": "-5", "-1/2": "-1/2", "−½": "-1/2"},
        **{"£-3": "-3", "-£3": "-3", "−€2.50": "-2.5", "5 - 8 = -3": "-3", "(−7)": "-7"},
        **{"minus twelve": "-12", "negative $5": "-5", "+5": "5", "-3^2": "-9"},
    },
    "currency": {
        **{"CA$12": "12", "£1,250.75": "1250.75", "12 USD": "12", "USD45": "45", "¥3000": "3000"},
        **{"50 cents": "50", "$.50": "0.5", "R$ 25": "25", "$5/hour": "5", "$15 each": "15"},
        **{"Rs. 500": "500", "\\$1{,}500": "1500", "CHF 20": "20", "5€": "5"},
    },
    "units": {
        **{"42 km/h": "42", "9.8 m/s^2": "9.8", "9.8 m/s²": "9.8", "5kg": "5", "37 °C": "37"},
        **{"12 sq. ft.": "12", "2 m³": "2", "5 N·m": "5", "7 days a week": "7", "30 mph": "30"},
        **{"20 kWh": "20", "3 more apples": "3", "5 seconds": "5", "25 per cent": "25"},
        **{"2 of them": "2", "12 cm2": "12", "5 m·s⁻¹": "5", "3 times": "3", "1 cent": "1"},
    },
    "thousands": {
        **{"1.000.000": "1000000", "1.234.567,89": "1234567.89", "1'000": "1000"},
        **{"1’000’000": "1000000", "12,34,567": "1234567", "1 234,5": "1234.5"},
        **{"1,000.50": "1000.5", "3_000_000": "3000000", "12 000": "12000", "1,\\!200": "1200"},
        **{"１，２００": "1200", "١٬٢٠٠": "1200", "000": "0", "3.142": "3.142"},
    },
    "magnitudes": {
        **{"2.5 billion": "2500000000", "$3M": "3000000", "€2bn": "2000000000", "1.2k": "1200"},
        **{"4 dozen": "48", "3 hundred thousand": "300000", "1.5 Millionen": "1500000"},
        **{"2 lakh": "200000", "3万円": "30000", "1.5亿": "150000000", "12만원": "120000"},
        **{"5 тыс. рублей": "5000", "5 Mrd. €": "5000000000", "2.5e-3": "0.0025", "2^5": "32"},
        **{"3³": "27", "10⁶": "1000000", "5 x 10^3": "5000", "6.02×10²³": "602" + "0" * 21},
        **{"2¾": "2.75", "2 ⅓": "7/3", "5²": "25", "1\\frac{1}{2}": "1.5"},
    },
    "words": {
        **{"Forty-two": "42", "one hundred and five": "105", "two thousand and six": "2006"},
        **{"a dozen": "12", "one and a half": "1.5", "two thirds": "2/3", "half": "0.5"},
        **{"twelve hundred": "1200", "five million people": "5000000", "zero": "0"},
    },
    "formulas": {
        **{"$42$": "42", "\\[42\\]": "42", "\\boxed{\\text{42}}": "42", "\\dfrac{1}{3}": "1/3"},
        **{"\\boxed{50\\%}": "50", "\\boxed{2 \\times 10^{3}}": "2000", "\\(x = 7\\)": "7"},
        **{"\\boxed{5\\,\\text{km}}": "5", "\\boxed{90^\\circ}": "90", "\\sqrt{16}": "4"},
        **{"\\boxed{\\frac{-3}{4}}": "-3/4", "\\frac12": "0.5", "2 × 3 = 6": "6"},
        **{"( 84. 0 / 2. 0 )": "42", "( 19.0 - 3.0 )": "16", "2 boys + 3 boys": "5"},
    },
    "sentences": {
        **{"The total is 5.": "5", "She has 5 apples left.": "5", "It costs $5.": "5"},
        **{"There are 12 apples in total.": "12", "total: 5": "5", "exactly 5": "5"},
    },
    "marks": {
        **{"***42***": "42", "**42** apples": "42", "`-3`": "-3", "_7_.": "7", "[42]": "42"},
        **{"“42”": "42", "4\u200b2": "42", "४२": "42", "５00": "500"},
    },
}
NO_VALUE: dict[str, tuple[str, ...]] = {
    "signs that may be none": ("- 5", "— 5", "±3", "--5", "5 - 8", "8-3", "20 ± 2", "5+", "~5"),
    "separators that two locales read apart": ("1,5", "1,23", "0,5", "1,2345", "1,234,56", "10,5"),
    "separators that no locale has": ("1,2,3", "3.5.2", "1.234,567", "1.500 €", "1. 5"),
    "several values": (
        *("3 or 4", "3, 4", "5; 6", "5 & 6", "5/6/7", "5-10", "5~6", "2x3", "2 by 3", "[5, 6]"),
        *("three or four", "five to six", "5 to six", "x = 2, x = 3", "2 hours 30 minutes", "2h30"),
        *("3 apples + 4 pears", "5'6", "3 out of 4", "1 in 5", "10 percent of 50", "5 of the 6"),
        *("5 oder sechs", "5 apples and six pears", "2 million 500 thousand", "1–5", "1至5"),
    ),
    "bounds": (
        *("at least 5", "5 or more", "up to 10", "less than 10", "> 5", "≥ 5", "5 max", "5以上"),
        *("about 5", "≈ 3.14", "5左右", "no more than 5", "5 at most", "0.1666...", "3.14…"),
    ),
    "times and dates": (
        *("10:30", "7 a.m.", "3 o'clock", "14 Uhr", "17時", "6 May", "12.05.2024", "5 BC"),
        *("2024-05-06", "half past three", "3:4:5", "2:1"),
    ),
    "places and names": ("5th", "the 5th", "#5", "Room 5", "first", "IV", "v1.2", "555-1234", "5ª"),
    "what is no rational number": ("3π", "5i", "√2", "2\\sqrt{3}", "∞", "NaN", "7/0", "e", "\\pi"),
    "unknowns": ("x", "2n", "5x + 3", "2x = 6", "x + 5 = 10", "$5m$", "\\frac{3}{4}x", "5C2"),
    "operations": ("5!", "2**3", "5 squared", "3 plus 4", "5 mod 7", "0b101", "1e999999999"),
    "magnitudes that are doubtful": (
        "3M",
        "5 mil",
        "5 score",
        "5 grand",
        "$3 m",
        "3 bin",
        "5万5千",
    ),
    "scores": ("24/7", "50/50", "5/5"),
    "contradictions": ("5 + 3 = 9", "10 / 3 = 3.33"),
    "denials and doubts": ("not 5", "5?", "~~5~~", "5 is wrong", "They do not have 5", "unknown"),
    "words with more": ("one of the boxes", "twenty fifth", "three quarters", "a few", "none"),
}


@pytest.mark.parametrize(
    ("said", "value"), [pair for group in VALUES.values() for pair in group.items()]
)
def test_a_number_is_read_by_value(said: str, value: str) -> None:
    assert read_number(said) == Fraction(value)


@pytest.mark.parametrize("said", [said for group in NO_VALUE.values() for said in group])
def test_what_could_be_another_number_is_none(said: str) -> None:
    assert read_number(said) is None
