"""CSV and TSV with a header line: cells by the names in it, an empty cell for nothing."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import BinaryIO

from qcrd.runtime.data_files.json_lines import decode_line
from qcrd.runtime.data_files.records import (
    MAX_RECORD_BYTES,
    MAX_RECORDS,
    SourceRecord,
    check_count,
    make_record_error,
    truncate,
)

DELIMITERS = "\t,;|"
COMMENT = re.compile(r"\s*(#\s|//|--\s)")
RULE = re.compile(r"\s*(:?-+:?)?\s*")
"""A cell between the header of a Markdown table and its rows."""
csv.field_size_limit(MAX_RECORD_BYTES)  # of the whole process: there is one reader of CSV here


def choose_delimiter(header: str) -> str | None:
    """The one that the header line has most of, outside quotes; None where it has none."""
    unquoted = "".join(header.split('"')[::2])
    best = max(DELIMITERS, key=unquoted.count)
    return best if best in unquoted else None


def read_delimited(
    data: BinaryIO, delimiter: str, max_records: int = MAX_RECORDS
) -> Iterator[SourceRecord]:
    """Lines are those of the file, also where a quoted cell has several. `Invalid` at the first
    line with more cells than the header."""
    lines = _Lines(data)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    count = 0
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise make_record_error(
                number,
                f"no line of a table: {truncate(error)}; put cells that have quotes, delimiters or "
                "line breaks into quotes, and double the quotes in them",
                code="broken_csv",
            ) from error
        if cells is None:
            return
        if not any(cells) or (header is None and cells == ["sep=", ""]):
            continue
        if header is None:
            header = _check_header(cells, number)
            continue
        count += 1
        check_count(count, max_records)
        if count == 1 and delimiter == "|" and all(RULE.fullmatch(cell) for cell in cells):
            raise make_record_error(
                number,
                "a Markdown table: save it as CSV, with a header line and no line of hyphens",
                code="broken_csv",
            )
        if len(cells) > len(header):
            raise make_record_error(
                number,
                f"it has {len(cells)} cells and the header {len(header)}: put cells that have the "
                f"delimiter {delimiter!r} in them into quotes",
                code="broken_csv",
            )
        named = zip(header, cells, strict=False)
        yield SourceRecord(number, {name: cell or None for name, cell in named if name})


def _check_header(cells: list[str], number: int) -> list[str]:
    """The names; a column without one, as a table's index is written, is left out."""
    if COMMENT.match(cells[0]):
        raise make_record_error(
            number,
            f"it begins with {truncate(cells[0])!r}, a comment: take the comments out, so that the "
            "names of the columns are first",
            code="broken_csv",
        )
    names = [cell.strip() for cell in cells]
    seen = set[str]()
    for name in filter(None, names):
        if name in seen:
            raise make_record_error(
                number, f"the column `{truncate(name)}` is there twice: rename one", code="twice"
            )
        seen.add(name)
    return names


class _Lines:
    """Lines of text of bounded length, with their ends."""

    def __init__(self, data: BinaryIO) -> None:
        self._data = data
        self._count = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self._count += 1
        line = self._data.readline(MAX_RECORD_BYTES + 1)
        if not line:
            raise StopIteration
        if len(line) > MAX_RECORD_BYTES:
            raise make_record_error(self._count, f"longer than {MAX_RECORD_BYTES} bytes")
        return decode_line(self._count, line)
