"""Parquet files, as dataset hubs publish them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from qcrd.errors import Invalid
from qcrd.runtime.data_files.records import (
    MAX_RECORD_BYTES,
    MAX_RECORDS,
    SourceRecord,
    check_count,
    make_record_error,
    truncate,
)

MAGIC = b"PAR1"
BATCH_ROWS = 256
MAX_MEMORY_BYTES = 32 << 20
"""Of the file, which is read from its end: larger ones lie in a temporary file meanwhile."""


def read_parquet(data: BinaryIO, max_records: int = MAX_RECORDS) -> Iterator[SourceRecord]:
    """`Invalid` for a file that is none."""
    # Loaded when it is needed: it takes 50 MB, and the command line is light.
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise Invalid(
            "Parquet files are read by pyarrow, which is not installed: pip install pyarrow"
        ) from error

    with tempfile.SpooledTemporaryFile(max_size=MAX_MEMORY_BYTES) as copy:
        shutil.copyfileobj(data, copy)
        copy.seek(0)
        number = 0
        try:
            table = parquet.ParquetFile(copy)
            check_count(table.metadata.num_rows, max_records, "record")
            for batch in table.iter_batches(batch_size=BATCH_ROWS):
                for fields in batch.to_pylist():
                    number += 1
                    _check_size(number, fields)
                    yield SourceRecord(number, fields, "record")
        # Values that Python has no type for, such as the year 300,000, raise the latter two.
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            raise _make_error(number + 1, error) from error


def _check_size(number: int, fields: dict[str, Any]) -> None:
    size = sum(len(value) for value in fields.values() if isinstance(value, str | bytes))
    if size > MAX_RECORD_BYTES:
        raise make_record_error(
            number,
            f"longer than {MAX_RECORD_BYTES} characters: one question a record",
            unit="record",
        )


def _make_error(number: int, error: Exception) -> Invalid:
    return make_record_error(
        number,
        f"the Parquet file cannot be read ({truncate(error)}): write it anew",
        unit="record",
        code="broken_parquet",
    )
