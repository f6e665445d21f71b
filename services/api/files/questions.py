"""A questions file: JSON lines in UTF-8, checked line by line, errors name the line and the fix."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from qcrd.errors import Invalid
from qcrd.method.answers import comparison_id, question_id
from qcrd.records.rationales import Question
from services.api.files.duplicates import DuplicateIndex
from services.api.http.strict_json import DECODER

MAX_LINE_BYTES = 2 << 20
"""A question with a hundred long teacher outputs is below 1 MiB, and 2 MiB of JSON can take 50 MB
once they are parsed."""


MAX_LINES = 1_000_000
"""Bounds the index of duplicates, 16 to 32 bytes per line, to 35 MB."""


class LineSplitter:
    """(number, line) out of chunks; `Invalid` when a line is too long or there are too many."""

    def __init__(self, max_lines: int = MAX_LINES) -> None:
        self._max_lines = max_lines
        self._line_number = 0
        self._partial_line = bytearray()

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        *complete_lines, partial_line = chunk.split(b"\n")
        for line in complete_lines:
            yield self._finish_line(line)
        self._append(partial_line)

    def finish(self) -> Iterator[tuple[int, bytes]]:
        if self._partial_line:
            yield self._finish_line(b"")

    def _finish_line(self, rest: bytes) -> tuple[int, bytes]:
        self._append(rest)
        line = bytes(self._partial_line)
        self._partial_line.clear()
        self._line_number += 1
        if self._line_number > self._max_lines:
            raise make_line_error(
                self._line_number, f"a file has at most {self._max_lines} lines: split it"
            )
        return self._line_number, line

    def _append(self, piece: bytes) -> None:
        if len(self._partial_line) + len(piece) > MAX_LINE_BYTES:
            number = self._line_number + 1
            raise make_line_error(
                number, f"longer than {MAX_LINE_BYTES} bytes: one question a line"
            )
        self._partial_line += piece


def make_line_error(
    number: int, problem: str, *, code: str = "invalid_line", param: str = "file"
) -> Invalid:
    return Invalid(f"line {number}: {problem}", param=param, code=code)


CHUNK_BYTES = 1 << 18
"""Bytes read from the store at a time."""

OUTPUT_LIST_FIELDS = ("teacher_outputs", "outputs", "rationales")
FIELDS = ("question", "label", "choices", "teacher_output", *OUTPUT_LIST_FIELDS, "id")


@dataclass(frozen=True)
class QuestionRow:
    """One line: its number (from 1), the question, and raw teacher outputs that came with it.
    `explains_label`: they came as rationales, each of which explains the line's label."""

    line_number: int
    question: Question
    outputs: tuple[str, ...] = ()
    explains_label: bool = False

    def with_outputs(self, outputs: Iterable[str]) -> QuestionRow:
        return replace(self, outputs=tuple(outputs))


class RowReader:
    """Parses rows from chunks that are cut anywhere; `Invalid` at the first invalid one.

    Keeps one line in memory and each question's line number. Questions that differ in white space,
    case or the form of characters only are the same.
    """

    def __init__(self, max_lines: int = MAX_LINES) -> None:
        self._line_splitter = LineSplitter(max_lines)
        self._question_index = DuplicateIndex()

    @property
    def count(self) -> int:
        """Rows so far."""
        return len(self._question_index)

    def feed(self, chunk: bytes) -> Iterator[QuestionRow]:
        for number, raw in self._line_splitter.feed(chunk):
            yield from self._read_row(number, raw)

    def finish(self) -> Iterator[QuestionRow]:
        """The last row, if any is left; `Invalid` if the file had none."""
        for number, raw in self._line_splitter.finish():
            yield from self._read_row(number, raw)
        if not self.count:
            raise Invalid(
                "the file is empty: one JSON object a line is needed, "
                'such as {"question": "…", "label": "…"}',
                param="file",
                code="empty_file",
            )

    def _read_row(self, number: int, raw: bytes) -> Iterator[QuestionRow]:
        text = _decode_line(number, raw)
        if not text.strip():
            return
        row = _parse_row(number, text)
        compared = comparison_id(row.question.text, row.question.choices)
        if (first := self._question_index.setdefault(compared, number)) != number:
            raise make_line_error(
                number,
                f"the same question as line {first}, but for white space, case and the form of "
                "characters, which do not count: remove one of the two",
                code="duplicate_question",
            )
        yield row


def read_rows(data: BinaryIO, max_lines: int = MAX_LINES) -> Iterator[QuestionRow]:
    """Every row of the file; `Invalid` at the first invalid one, or if there is none."""
    reader = RowReader(max_lines)
    while chunk := data.read(CHUNK_BYTES):
        yield from reader.feed(chunk)
    yield from reader.finish()


def _decode_line(number: int, raw: bytes) -> str:
    """The line's text, without a byte order mark, which files put behind others bring along."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise make_line_error(
            number,
            f"not UTF-8 (byte {error.start + 1} of the line): save the file as UTF-8",
            code="not_utf8",
        ) from error


def _parse_row(number: int, text: str) -> QuestionRow:
    fields = _parse_object(number, text)
    for name in fields:
        if name not in FIELDS:
            raise make_line_error(
                number,
                f"unknown key `{_truncate(name)}`: a line has "
                f"{', '.join(f'`{f}`' for f in FIELDS)}",
                code="unknown_key",
            )
    question_text = _get_text(number, fields, "question")
    if question_text is None:
        raise make_line_error(number, '`question` is missing: give its text, "question": "…"')
    choices = _get_choices(number, fields)
    question = Question(
        id=question_id(question_text, choices),
        text=question_text,
        label=_get_text(number, fields, "label"),
        choices=choices,
    )
    outputs = _get_outputs(number, fields)
    return QuestionRow(number, question, outputs, fields.get("rationales") is not None)


def _parse_object(number: int, text: str) -> dict[str, Any]:
    try:
        value = DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise make_line_error(
            number,
            f"broken JSON at character {error.colno}: {error.msg}; "
            "each line must be one complete JSON object",
            code="broken_json",
        ) from error
    except RecursionError as error:
        raise make_line_error(
            number, "nested too deep: a line is one flat JSON object", code="broken_json"
        ) from error
    except ValueError as error:  # a key twice, 5,000 digits
        raise make_line_error(
            number, f"broken JSON: {_truncate(error)}", code="broken_json"
        ) from error
    if not isinstance(value, dict):
        raise make_line_error(
            number, f'a JSON object is needed, {{"question": "…"}}, not {_describe_type(value)}'
        )
    return value


def _get_text(number: int, fields: dict[str, Any], name: str) -> str | None:
    """The field's text, None if the field is absent or null."""
    value = fields.get(name)
    if value is None:
        return None
    return _check_text(number, name, value)


def _check_text(number: int, name: str, value: Any, *, allow_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise make_line_error(
            number,
            f"`{name}` must be a string, not {_describe_type(value)}: write it in double quotes",
        )
    if not allow_empty and not value.strip():
        raise make_line_error(number, f"`{name}` is empty: give its text or remove the line")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise make_line_error(
            number,
            f"`{name}` holds half of a surrogate pair (\\ud800-\\udfff): write the whole character",
            code="not_utf8",
        ) from error
    return value


def _get_texts(
    number: int, fields: dict[str, Any], name: str, *, allow_empty: bool = False
) -> tuple[str, ...]:
    value = fields.get(name)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise make_line_error(
            number, f"`{name}` must be a list of strings, not {_describe_type(value)}"
        )
    return tuple(
        _check_text(number, f"{name}[{index}]", item, allow_empty=allow_empty)
        for index, item in enumerate(value)
    )


def _get_choices(number: int, fields: dict[str, Any]) -> tuple[str, ...]:
    choices = _get_texts(number, fields, "choices")
    if len(choices) == 1:
        raise make_line_error(number, "`choices` has one option: give at least two or leave it out")
    return choices


def _get_outputs(number: int, fields: dict[str, Any]) -> tuple[str, ...]:
    """The row's outputs. An empty one is kept, and counted as unparseable later."""
    present = [
        name for name in ("teacher_output", *OUTPUT_LIST_FIELDS) if fields.get(name) is not None
    ]
    if len(present) > 1:
        raise make_line_error(
            number, f"both `{present[0]}` and `{present[1]}`: put all outputs into one list"
        )
    if present == ["teacher_output"]:
        return (_check_text(number, "teacher_output", fields["teacher_output"], allow_empty=True),)
    return _get_texts(number, fields, present[0], allow_empty=True) if present else ()


def _describe_type(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "null" if value is None else "an object")


def _truncate(value: object) -> str:
    """Short, and without unpaired surrogates, which no response could encode."""
    return str(value)[:80].encode("utf-8", "replace").decode()
