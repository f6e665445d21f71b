"""The format of a data file, told by how it begins, and its records."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, BinaryIO

from qcrd.runtime.data_files.delimited import DELIMITERS, choose_delimiter, read_delimited
from qcrd.runtime.data_files.json_array import read_json_array
from qcrd.runtime.data_files.json_lines import JsonLinesReader
from qcrd.runtime.data_files.parquet import MAGIC, read_parquet
from qcrd.runtime.data_files.records import MAX_RECORDS, SourceRecord, make_record_error

SEPARATOR = re.compile(rb"sep=(.)\r?\n", re.IGNORECASE)
"""How spreadsheets say which delimiter a CSV has, in a line before its header."""
NOT_TEXT = {
    b"PK\x03\x04": "a ZIP file, as Excel workbooks (.xlsx) are too: unpack it, or save the sheet "
    "as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "an Excel workbook (.xls): save the sheet as CSV in UTF-8",
    b"\x1f\x8b": "compressed by gzip: unpack it",
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard: unpack it",
    b"%PDF": "a PDF: a table or JSON lines are needed",
    codecs.BOM_UTF16_LE: "UTF-16, not UTF-8: save the file as UTF-8",
    codecs.BOM_UTF16_BE: "UTF-16, not UTF-8: save the file as UTF-8",
}
"""What files begin with that are brought in place of data."""

CHUNK_BYTES = 1 << 18
"""Bytes read from the store at a time."""


class FileFormat(StrEnum):
    JSON_LINES = "jsonl"
    JSON_ARRAY = "json"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"


def detect_format(head: bytes) -> FileFormat:
    """By the first bytes, at least its first line: names of files lie more often. `Invalid` for
    what is no data file."""
    for magic, problem in NOT_TEXT.items():
        if head.startswith(magic):
            raise make_record_error(
                1, problem, code="not_utf8" if problem.startswith("UTF") else "not_data"
            )
    if head.startswith(MAGIC):
        return FileFormat.PARQUET
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith(b"["):
        return FileFormat.JSON_ARRAY
    if not text or text.startswith(b"{"):
        return FileFormat.JSON_LINES
    match _choose_delimiter(text):
        case None:
            return FileFormat.JSON_LINES  # whose reader says what is wrong
        case "\t":
            return FileFormat.TSV
    return FileFormat.CSV


def _choose_delimiter(text: bytes) -> str | None:
    if (said := SEPARATOR.match(text)) is not None and said[1] in DELIMITERS.encode():
        return said[1].decode()
    first_line = text.splitlines()[0] if text else b""
    try:
        return choose_delimiter(first_line.decode())
    except UnicodeDecodeError:
        return None


def read_records(data: BinaryIO, max_records: int = MAX_RECORDS) -> Iterator[SourceRecord]:
    """Every record; `Invalid` at the first broken one."""
    buffered = io.BufferedReader(_Readable(data), CHUNK_BYTES)
    head = buffered.peek(CHUNK_BYTES)
    match detect_format(head):
        case FileFormat.PARQUET:
            yield from read_parquet(buffered, max_records)
        case FileFormat.JSON_ARRAY:
            yield from read_json_array(buffered, max_records)
        case FileFormat.CSV | FileFormat.TSV:
            text = head.removeprefix(codecs.BOM_UTF8).lstrip()
            yield from read_delimited(buffered, _choose_delimiter(text) or ",", max_records)
        case FileFormat.JSON_LINES:
            yield from _read_json_lines(buffered, max_records)


def _read_json_lines(data: BinaryIO, max_records: int) -> Iterator[SourceRecord]:
    reader = JsonLinesReader(max_records)
    while chunk := data.read(CHUNK_BYTES):
        yield from reader.feed(chunk)
    yield from reader.finish()


class _Readable(io.RawIOBase):
    """A stream of the store for `io`'s readers, which want more of a stream than `read`."""

    def __init__(self, data: BinaryIO) -> None:
        self._data = data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        chunk = self._data.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)
