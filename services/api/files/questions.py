"""A questions file: JSON lines in UTF-8, checked line by line, errors name the line and the fix."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from qcrd.errors import Invalid
from qcrd.method.answers import question_id
from qcrd.records.rationales import Question
from services.api.files.duplicates import Seen
from services.api.http.strict_json import DECODER

MAX_LINE_BYTES = 2 << 20
"""A question with a hundred long teacher outputs is below 1 MiB; more is not a questions file, and
2 MiB of JSON can be 50 MB once they are read."""


MAX_LINES = 1_000_000
"""So that what is kept of each line to find duplicates, 16 to 32 bytes, stays below 35 MB."""


class Lines:
    """(number, line) out of chunks; `Invalid` when a line is too long or there are too many."""

    def __init__(self) -> None:
        self._number = 0
        self._begun = bytearray()

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        *whole, begun = chunk.split(b"\n")
        for line in whole:
            yield self._ended(line)
        self._grow(begun)

    def end(self) -> Iterator[tuple[int, bytes]]:
        if self._begun:
            yield self._ended(b"")

    def _ended(self, rest: bytes) -> tuple[int, bytes]:
        self._grow(rest)
        line = bytes(self._begun)
        self._begun.clear()
        self._number += 1
        if self._number > MAX_LINES:
            raise wrong(self._number, f"a file has at most {MAX_LINES} lines: split it")
        return self._number, line

    def _grow(self, piece: bytes) -> None:
        if len(self._begun) + len(piece) > MAX_LINE_BYTES:
            number = self._number + 1
            raise wrong(number, f"longer than {MAX_LINE_BYTES} bytes: one question a line")
        self._begun += piece


def wrong(number: int, problem: str, *, code: str = "invalid_line", param: str = "file") -> Invalid:
    return Invalid(f"line {number}: {problem}", param=param, code=code)


CHUNK = 1 << 18
"""Bytes read from the store at a time."""

OUTPUT_LISTS = ("teacher_outputs", "outputs", "rationales")
FIELDS = ("question", "label", "choices", "teacher_output", *OUTPUT_LISTS, "id")


@dataclass(frozen=True)
class Row:
    """One line: its number (from 1), the question, and raw teacher outputs that came with it."""

    line: int
    question: Question
    outputs: tuple[str, ...] = ()


class RowReader:
    """Rows of a file that comes in chunks, cut anywhere; `Invalid` at the first that is wrong.

    Holds one line and, of every question, where it was.
    """

    def __init__(self) -> None:
        self._lines = Lines()
        self._seen = Seen()

    @property
    def count(self) -> int:
        """Rows so far."""
        return len(self._seen)

    def feed(self, chunk: bytes) -> Iterator[Row]:
        for number, raw in self._lines.feed(chunk):
            yield from self._row(number, raw)

    def end(self) -> Iterator[Row]:
        """What is left; `Invalid` if there was no row at all."""
        for number, raw in self._lines.end():
            yield from self._row(number, raw)
        if not self.count:
            raise Invalid(
                "the file is empty: one JSON object a line is needed, "
                'such as {"question": "…", "label": "…"}',
                param="file",
                code="empty_file",
            )

    def _row(self, number: int, raw: bytes) -> Iterator[Row]:
        text = _decoded(number, raw)
        if not text.strip():
            return
        row = _row(number, text)
        if (first := self._seen.first(row.question.id, number)) != number:
            raise wrong(
                number,
                f"the same question as line {first}: remove one of the two",
                code="duplicate_question",
            )
        yield row


def read_rows(data: BinaryIO) -> Iterator[Row]:
    """Every row of the file; `Invalid` at the first that is wrong, or if there is none."""
    reader = RowReader()
    while chunk := data.read(CHUNK):
        yield from reader.feed(chunk)
    yield from reader.end()


def _decoded(number: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise wrong(
            number,
            f"not UTF-8 (byte {error.start + 1} of the line): save the file as UTF-8",
            code="not_utf8",
        ) from error


def _row(number: int, text: str) -> Row:
    fields = _object(number, text)
    for name in fields:
        if name not in FIELDS:
            raise wrong(
                number,
                f"unknown key `{_shown(name)}`: a line has {', '.join(f'`{f}`' for f in FIELDS)}",
                code="unknown_key",
            )
    asked = _text(number, fields, "question")
    if asked is None:
        raise wrong(number, '`question` is missing: give its text, "question": "…"')
    choices = _choices(number, fields)
    question = Question(
        id=question_id(asked, choices),
        text=asked,
        label=_text(number, fields, "label"),
        choices=choices,
    )
    return Row(number, question, _outputs(number, fields))


def _object(number: int, text: str) -> dict[str, Any]:
    try:
        found = DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise wrong(
            number,
            f"broken JSON at character {error.colno}: {error.msg}; "
            "each line must be one complete JSON object",
            code="broken_json",
        ) from error
    except (ValueError, RecursionError) as error:  # a key twice, 5,000 digits, 10,000 brackets
        raise wrong(number, f"broken JSON: {_shown(error)}", code="broken_json") from error
    if not isinstance(found, dict):
        raise wrong(number, f'a JSON object is needed, {{"question": "…"}}, not {_kind(found)}')
    return found


def _text(number: int, fields: dict[str, Any], name: str) -> str | None:
    """The field's text, None if the field is absent or null."""
    value = fields.get(name)
    if value is None:
        return None
    return _checked(number, name, value)


def _checked(number: int, name: str, value: Any, *, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise wrong(
            number, f"`{name}` must be a string, not {_kind(value)}: write it in double quotes"
        )
    if not empty and not value.strip():
        raise wrong(number, f"`{name}` is empty: give its text or remove the line")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise wrong(
            number,
            f"`{name}` holds half of a surrogate pair (\\ud800-\\udfff): write the whole character",
            code="not_utf8",
        ) from error
    return value


def _texts(
    number: int, fields: dict[str, Any], name: str, *, empty: bool = False
) -> tuple[str, ...]:
    value = fields.get(name)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise wrong(number, f"`{name}` must be a list of strings, not {_kind(value)}")
    return tuple(
        _checked(number, f"{name}[{place}]", item, empty=empty) for place, item in enumerate(value)
    )


def _choices(number: int, fields: dict[str, Any]) -> tuple[str, ...]:
    choices = _texts(number, fields, "choices")
    if len(choices) == 1:
        raise wrong(number, "`choices` has one option: give at least two or leave it out")
    return choices


def _outputs(number: int, fields: dict[str, Any]) -> tuple[str, ...]:
    """An empty output is one that a teacher gave: kept, and counted as unparseable later."""
    given = [name for name in ("teacher_output", *OUTPUT_LISTS) if fields.get(name) is not None]
    if len(given) > 1:
        raise wrong(number, f"both `{given[0]}` and `{given[1]}`: put all outputs into one list")
    if given == ["teacher_output"]:
        return (_checked(number, "teacher_output", fields["teacher_output"], empty=True),)
    return _texts(number, fields, given[0], empty=True) if given else ()


def _kind(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "null" if value is None else "an object")


def _shown(said: object) -> str:
    """Short, and without half surrogate pairs, which no answer could carry."""
    return str(said)[:80].encode("utf-8", "replace").decode()
