"""JSON lines: one object a line, in UTF-8. Read as the bytes come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from qcrd.runtime.data_files.json_decoder import DECODER
from qcrd.runtime.data_files.records import (
    MAX_RECORD_BYTES,
    MAX_RECORDS,
    SourceRecord,
    Unit,
    check_count,
    describe_type,
    make_record_error,
    truncate,
)


class LineSplitter:
    """(number, line) out of chunks; `Invalid` when a line is too long or there are too many."""

    def __init__(self, max_lines: int = MAX_RECORDS) -> None:
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
        check_count(self._line_number, self._max_lines)
        return self._line_number, line

    def _append(self, piece: bytes) -> None:
        if len(self._partial_line) + len(piece) > MAX_RECORD_BYTES:
            number = self._line_number + 1
            raise make_record_error(
                number, f"longer than {MAX_RECORD_BYTES} bytes: one question a line"
            )
        self._partial_line += piece


class JsonLinesReader:
    """Records from chunks that are cut anywhere; `Invalid` at the first line that is none."""

    def __init__(self, max_lines: int = MAX_RECORDS) -> None:
        self._splitter = LineSplitter(max_lines)

    def feed(self, chunk: bytes) -> Iterator[SourceRecord]:
        for number, raw in self._splitter.feed(chunk):
            yield from _read_line(number, raw)

    def finish(self) -> Iterator[SourceRecord]:
        for number, raw in self._splitter.finish():
            yield from _read_line(number, raw)


def _read_line(number: int, raw: bytes) -> Iterator[SourceRecord]:
    text = decode_line(number, raw)
    if text.strip():
        yield SourceRecord(number, parse_object(number, text))


def decode_line(number: int, raw: bytes) -> str:
    """The line's text, without a byte order mark, which files put behind others bring along."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise make_record_error(
            number,
            f"not UTF-8 (byte {error.start + 1} of the line): save the file as UTF-8",
            code="not_utf8",
        ) from error


def parse_object(number: int, text: str) -> dict[str, Any]:
    try:
        value = DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise make_record_error(
            number,
            f"broken JSON at character {error.colno}: {error.msg}; {_advise(text)}",
            code="broken_json",
        ) from error
    except RecursionError as error:
        raise make_nesting_error(number) from error
    except ValueError as error:  # a key twice, 5,000 digits
        raise make_record_error(
            number, f"broken JSON: {truncate(error)}", code="broken_json"
        ) from error
    return check_object(number, value)


def _advise(text: str) -> str:
    if text.lstrip().startswith(("#", "//")):
        return "a comment is no data: take the comments out"
    if text.lstrip().startswith(("{", "[")):
        return "each line must be one complete JSON object"
    return (
        "each line must be one complete JSON object; a table begins with the names of at least two "
        "columns, such as `question,label`"
    )


def make_nesting_error(number: int, unit: Unit = "line") -> Exception:
    return make_record_error(
        number, "nested too deep: one flat JSON object is needed", unit=unit, code="broken_json"
    )


def check_object(number: int, value: Any, unit: Unit = "line") -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise make_record_error(
        number,
        f'a JSON object is needed, {{"question": "…"}}, not {describe_type(value)}',
        unit=unit,
    )
