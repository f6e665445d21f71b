"""A JSON array of objects, read element by element: the file may be larger than memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from qcrd.errors import Invalid
from qcrd.runtime.data_files.json_decoder import DECODER
from qcrd.runtime.data_files.json_lines import check_object, make_nesting_error
from qcrd.runtime.data_files.records import (
    MAX_RECORD_BYTES,
    MAX_RECORDS,
    SourceRecord,
    check_count,
    make_record_error,
    truncate,
)

CHUNK_BYTES = 1 << 18
NO_SPACE = re.compile(r"[^ \t\r\n]")


def read_json_array(data: BinaryIO, max_records: int = MAX_RECORDS) -> Iterator[SourceRecord]:
    """`Invalid` at the first element that is no object, and at an array that does not end."""
    text = _Text(data)
    text.expect("[", 1)
    number = 0
    if text.peek() == "]":
        text.expect_end(number)
        return
    while True:
        number += 1
        check_count(number, max_records, "record")
        fields = check_object(number, text.take_value(number), "record")
        yield SourceRecord(number, fields, "record")
        if text.peek() == "]":
            text.expect_end(number)
            return
        text.expect(",", number)


class _Text:
    """The text from a position on, of which more is read as it is needed."""

    def __init__(self, data: BinaryIO) -> None:
        self._data = data
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._is_at_end = False
        self._number = 0

    def peek(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            found = NO_SPACE.search(self._text, self._at)
            self._at = len(self._text) if found is None else found.start()
            if self._at < len(self._text) or not self._read_more():
                return self._text[self._at : self._at + 1]

    def expect(self, character: str, number: int) -> None:
        if self.peek() != character:
            raise make_record_error(
                max(1, number),
                f"broken JSON: `{character}` is needed here; a JSON array has objects with commas "
                "between them",
                unit="record",
                code="broken_json",
            )
        self._at += 1

    def expect_end(self, number: int) -> None:
        self.expect("]", number)
        if self.peek():
            raise make_record_error(
                max(1, number),
                "broken JSON: there is more behind the array's end",
                unit="record",
                code="broken_json",
            )

    def take_value(self, number: int) -> Any:
        self._number = number
        while True:
            self.peek()
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._has_more(number):
                    raise self._make_error(error.msg) from error
            except RecursionError as error:
                raise make_nesting_error(number, "record") from error
            except ValueError as error:
                raise self._make_error(truncate(error)) from error
            else:
                # What is no object may go on behind the end of what was read, as a number does.
                if isinstance(value, dict) or end < len(self._text) or not self._has_more(number):
                    self._at = end
                    return value

    def _has_more(self, number: int) -> bool:
        if len(self._text) - self._at > MAX_RECORD_BYTES:
            raise make_record_error(
                number, f"longer than {MAX_RECORD_BYTES} bytes, or broken JSON", unit="record"
            )
        return self._read_more()

    def _read_more(self) -> bool:
        if self._is_at_end:
            return False
        chunk = self._data.read(CHUNK_BYTES)
        self._is_at_end = not chunk
        try:
            more = self._decoder.decode(chunk, final=self._is_at_end)
        except UnicodeDecodeError as error:
            raise make_record_error(
                self._number + 1,
                "not UTF-8: save the file as UTF-8",
                unit="record",
                code="not_utf8",
            ) from error
        self._text, self._at = self._text[self._at :] + more, 0
        return not self._is_at_end

    def _make_error(self, reason: str) -> Invalid:
        return make_record_error(
            self._number, f"broken JSON: {reason}", unit="record", code="broken_json"
        )
