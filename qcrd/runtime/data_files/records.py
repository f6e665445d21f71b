"""Records of a data file, whatever its format: their number, their fields, and what bounds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from qcrd.errors import Invalid

MAX_RECORD_BYTES = 2 << 20
"""A question with a hundred long teacher outputs is below 1 MiB, and 2 MiB of JSON can take 50 MB
once they are parsed."""
MAX_RECORDS = 1_000_000
"""Bounds the index of duplicates, 20 to 40 bytes per record, to 42 MB."""

Unit = Literal["line", "record"]
"""What a record is counted by: formats without lines have a number only."""


@dataclass(frozen=True)
class SourceRecord:
    """One record as its file has it; `number` counts from 1."""

    number: int
    fields: dict[str, Any]
    unit: Unit = "line"


def make_record_error(
    number: int,
    problem: str,
    *,
    unit: Unit = "line",
    code: str = "invalid_line",
    param: str = "file",
) -> Invalid:
    return Invalid(f"{unit} {number}: {problem}", param=param, code=code)


def check_count(number: int, most: int, unit: Unit = "line") -> None:
    if number > most:
        raise make_record_error(number, f"a file has at most {most} {unit}s: split it", unit=unit)


def describe_type(value: Any) -> str:
    names = {
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
    }
    return names.get(type(value), "null" if value is None else "an object")


def truncate(value: object) -> str:
    """Short, and without unpaired surrogates, which no response could encode."""
    return clean_text(str(value)[:80])


def clean_text(text: str) -> str:
    """With a question mark for each unpaired surrogate."""
    return text.encode("utf-8", "replace").decode()
