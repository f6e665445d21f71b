"""The same records out of each format, and what a broken file is told."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from qcrd.errors import Invalid
from qcrd.runtime.data_files.detect import FileFormat, detect_format, read_records
from qcrd.runtime.data_files.records import MAX_RECORD_BYTES

ROWS: list[dict[str, Any]] = [
    {"question": "Was heißt „Forelle“?", "label": "trout"},
    {"question": 'two\nlines, "quotes", a comma\tand a tab; more|', "label": "b\u2028c"},
    {"question": "no label", "label": None},
]


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",", ends: str = "\r\n") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator=ends)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


def read(data: bytes) -> list[dict[str, Any]]:
    return [record.fields for record in read_records(io.BytesIO(data))]


@pytest.mark.parametrize(
    ("data", "file_format"),
    [
        (b"".join(json.dumps(row).encode() + b"\n" for row in ROWS), FileFormat.JSON_LINES),
        (b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode(), FileFormat.JSON_LINES),
        (json.dumps(ROWS).encode(), FileFormat.JSON_ARRAY),
        (json.dumps(ROWS, indent=2, ensure_ascii=False).encode(), FileFormat.JSON_ARRAY),
        (b"\xef\xbb\xbf [" + json.dumps(ROWS)[1:].encode(), FileFormat.JSON_ARRAY),
        (as_csv(ROWS), FileFormat.CSV),
        (as_csv(ROWS, ends="\n"), FileFormat.CSV),
        (b"\xef\xbb\xbf" + as_csv(ROWS, ";"), FileFormat.CSV),
        (as_csv(ROWS, "|"), FileFormat.CSV),
        (as_csv(ROWS, "\t"), FileFormat.TSV),
        (as_parquet(ROWS), FileFormat.PARQUET),
    ],
)
def test_each_format_has_the_same_records(data: bytes, file_format: FileFormat) -> None:
    assert detect_format(data) is file_format
    assert read(data) == ROWS[: len(read(data))]
    assert len(read(data)) in (1, 3)


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r")) | st.none()
records = st.lists(
    st.fixed_dictionaries({"a b": cells.filter(bool), "ü": cells}), min_size=1, max_size=6
)


@settings(max_examples=60, deadline=None)
@given(records, st.sampled_from("\t,;|"), st.sampled_from(["\n", "\r\n"]))
def test_tables_come_back(rows: list[dict[str, Any]], delimiter: str, ends: str) -> None:
    expected = [{name: cell or None for name, cell in row.items()} for row in rows]
    assert read(as_csv(rows, delimiter, ends)) == expected


@settings(max_examples=60, deadline=None)
@given(records, st.integers(0, 4))
def test_arrays_come_back_however_they_are_laid_out(
    rows: list[dict[str, Any]], indent: int
) -> None:
    for ascii_only in (True, False):
        text = json.dumps(rows, indent=indent or None, ensure_ascii=ascii_only)
        assert read(text.encode()) == rows


def test_an_array_larger_than_a_chunk_is_read_element_by_element() -> None:
    rows = [{"question": f"{number} {'x' * 1000}", "n": number} for number in range(2000)]
    assert read(json.dumps(rows).encode()) == rows


def test_lines_of_a_table_are_those_of_the_file() -> None:
    data = b'question,label\n"two\nlines",a\n\nlast,b,c\n'
    with pytest.raises(Invalid, match=r"^line 5: it has 3 cells and the header 2"):
        read(data)


@pytest.mark.parametrize(
    ("data", "code", "told"),
    [
        (b"a,a\n1,2\n", "twice", "line 1: the column `a` is there twice"),
        (b"a,b\n1,2,3\n", "broken_csv", "line 2: it has 3 cells and the header 2"),
        (b'a,b\n"x"y,2\n', "broken_csv", "line 2: no line of a table"),
        (b'a,b\n"x,2\n', "broken_csv", "line 2: no line of a table"),
        (b"a,b\n\xff,2\n", "not_utf8", "line 2: not UTF-8"),
        (b"a,b\n" + b"x" * (MAX_RECORD_BYTES + 1), "invalid_line", "line 2: longer than"),
        (b"[1]", "invalid_line", "record 1: a JSON object is needed"),
        (b'[{"a": 1} {"a": 2}]', "broken_json", "record 1: broken JSON: `,` is needed"),
        (b'[{"a": 1}, ', "broken_json", "record 2: broken JSON"),
        (b'[{"a": 1}] x', "broken_json", "record 1: broken JSON: there is more behind"),
        (b"[] []", "broken_json", "record 1: broken JSON: there is more behind"),
        (b'[{"a": 1}', "broken_json", "record 1: broken JSON"),
        (b'[{"a": 1, "a": 2}]', "broken_json", "record 1: broken JSON: key 'a' is there twice"),
        (b'[{"a": "\xff"}]', "not_utf8", "record 1: not UTF-8"),
        (b"[" * 100_000, "broken_json", "record 1: nested too deep"),
        (b"PAR1 and no more", "broken_parquet", "record 1: the Parquet file cannot be read"),
        ("question".encode("utf-16"), "not_utf8", "line 1: UTF-16, not UTF-8"),
        (b"just words", "broken_json", "line 1: broken JSON"),
        (b"question\nWhat?\n", "broken_json", "the names of at least two columns"),
        (b"# of mine\nquestion,label\na,b\n", "broken_json", "a comment is no data"),
        (b"# of mine, 2026\nquestion,label\na,b\n", "broken_csv", "begins with '# of mine', a co"),
        (b"| question | label |\n|---|:-:|\n| a | b |\n", "broken_csv", "line 2: a Markdown table"),
        (b"question | label\n--- | ---\na | b\n", "broken_csv", "line 2: a Markdown table"),
        (b"PK\x03\x04\x14\0", "not_data", "a ZIP file, as Excel workbooks (.xlsx) are too"),
        (b"\x1f\x8b\x08\0", "not_data", "compressed by gzip"),
    ],
)
def test_a_broken_file_is_told_where_and_why(data: bytes, code: str, told: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(data)
    assert told in caught.value.message
    assert caught.value.code == code


def test_a_line_that_names_the_delimiter_is_no_header() -> None:
    """As Excel writes and reads it."""
    expected = [{"question": "one, two", "label": "b"}]
    for ends in (b"\r\n", b"\n"):
        for mark in (b"", b"\xef\xbb\xbf"):
            data = mark + ends.join([b"sep=;", b"question;label", b"one, two;b", b""])
            assert detect_format(data) is FileFormat.CSV
            assert read(data) == expected
    assert read(b"sep=\t\nquestion\tlabel\none, two\tb\n") == expected
    with pytest.raises(Invalid, match=r"^line 3: it has 3 cells"):
        read(b"sep=;\nquestion;label\na;b;c\n")


def test_a_column_may_begin_with_a_hash() -> None:
    assert read(b"#id,question\n1,a\n") == [{"#id": "1", "question": "a"}]


def test_columns_without_a_name_are_left_out() -> None:
    """As tables are written with their index."""
    assert read(b",question\n0,one\n1,two\n") == [{"question": "one"}, {"question": "two"}]


def test_more_records_than_a_file_may_have_are_refused() -> None:
    for data in (b'[{"a": 1}, {"a": 2}, {"a": 3}]', b"a,b\n1,2\n3,4\n5,6\n", as_parquet(ROWS)):
        with pytest.raises(Invalid, match="at most 2"):
            list(read_records(io.BytesIO(data), 2))


def test_a_date_that_python_has_not_is_a_broken_file() -> None:
    far = pyarrow.array([2**53], type=pyarrow.int64()).cast(pyarrow.timestamp("ms"))
    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"question": ["a"], "when": far}), out)
    with pytest.raises(Invalid, match="the Parquet file cannot be read"):
        read(out.getvalue())
