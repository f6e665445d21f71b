"""Files of JSON lines in the object store, one record a line."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from typing import IO, BinaryIO, TypeVar, cast

import zstandard
from pydantic import BaseModel

from qcrd.errors import UnreadableRecord
from qcrd.records.base import parse_stored_record
from qcrd.runtime.storage.store import Store, is_there

RecordT = TypeVar("RecordT", bound=BaseModel)

SPOOL_BYTES = 8 * 2**20
"""Bytes of lines kept in memory before they are spooled to a temporary file."""
READ_BYTES = 2**13
"""Compressed bytes that are read at once: lines that are all alike are many times
as many in memory."""


def write_lines(store: Store, key: str, records: Iterable[BaseModel]) -> None:
    """Write JSON lines, compressed when the key ends in `.zst`; all of them or no object."""
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
        compressor = zstandard.ZstdCompressor(level=6)
        target = compressor.stream_writer(spool, closefd=False) if key.endswith(".zst") else None
        with target or nullcontext():
            out = cast(IO[bytes], target or spool)
            for record in records:
                out.write(record.model_dump_json(by_alias=True).encode() + b"\n")
        length = spool.tell()
        spool.seek(0)
        store.put(key, cast(BinaryIO, spool), length=length)


def _iter_decompressed_lines(body: BinaryIO) -> Iterator[bytes]:
    """As iterating over a file. `ZstdError` also where the file is cut off, which a stream reader
    takes for its end."""
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    rest = b""
    while not decompressor.eof and (block := body.read(READ_BYTES)):
        lines = rest + decompressor.decompress(block)
        end = lines.rfind(b"\n") + 1
        yield from io.BytesIO(lines[:end])
        rest = lines[end:]
    if not decompressor.eof:
        raise zstandard.ZstdError("it is cut off")
    if rest:
        yield rest


@contextmanager
def _translate_damage(key: str) -> Iterator[None]:
    try:
        yield
    except zstandard.ZstdError as error:
        raise UnreadableRecord(f"{key} is damaged and cannot be read on: {error}") from error


def _iter_raw_lines(store: Store, key: str) -> Generator[bytes, None, None]:
    """Lines as they arrive; the connection stays open until the last one or `close`.
    `UnreadableRecord` where the compressed file is damaged."""
    with store.open(key) as body, _translate_damage(key):
        yield from _iter_decompressed_lines(body) if key.endswith(".zst") else body


def read_lines(
    store: Store, key: str, type: type[RecordT], *, skip_unreadable: bool = False
) -> Iterator[RecordT]:
    """The records of a file of JSON lines, each parsed when it is consumed. `skip_unreadable`: one
    that this release cannot read is left out, and so is what stands behind damage, with an alarm,
    instead of `UnreadableRecord`."""
    for number, line in enumerate(
        _iter_readable_lines(store, key) if skip_unreadable else _iter_raw_lines(store, key), 1
    ):
        record = parse_line(store, key, type, number, line, skip_unreadable=skip_unreadable)
        if record is not None:
            yield record


def _iter_readable_lines(store: Store, key: str) -> Iterator[bytes]:
    try:
        yield from _iter_raw_lines(store, key)
    except UnreadableRecord as error:
        store.unreadable.add(key, error.message, lambda: is_there(store, key))


def parse_line(
    store: Store,
    key: str,
    type: type[RecordT],
    number: int,
    line: bytes,
    *,
    skip_unreadable: bool = False,
) -> RecordT | None:
    """The record of line `number`, from 1, of such a file, as `read_lines` reads it."""
    place = f"{key}, line {number}"
    try:
        record = parse_stored_record(type, line, place)
    except UnreadableRecord as error:
        if not skip_unreadable:
            raise
        # To look at a line again is to read its file up to it: until the next one who does.
        store.unreadable.add(place, error.message, lambda: is_there(store, key))
        return None
    store.unreadable.remove(place)
    return record


def read_raw_lines(store: Store, key: str) -> list[bytes]:
    """All lines of a file of JSON lines, unparsed, up to damage, of which there is an alarm."""
    return list(_iter_readable_lines(store, key))


def read_lines_from(
    store: Store, key: str, type: type[RecordT], first: int
) -> Iterator[tuple[int, RecordT]]:
    """The records from line `first` on, counted from 0, each with its number; those before it are
    not parsed."""
    with closing(_iter_raw_lines(store, key)) as lines:
        for number, line in enumerate(lines):
            if number >= first:
                yield number, parse_stored_record(type, line, f"{key}, line {number + 1}")


def read_lines_at(
    store: Store, key: str, type: type[RecordT], numbers: Sequence[int]
) -> Iterator[tuple[int, RecordT]]:
    """The records on the lines with these `numbers`, from 0 and ascending; other lines are not
    parsed, and reading stops after the last one."""
    remaining = iter(numbers)
    number = next(remaining, None)
    with closing(_iter_raw_lines(store, key)) as lines:
        for index, line in enumerate(lines):
            if number is None:
                return
            if index == number:
                yield index, parse_stored_record(type, line, f"{key}, line {index + 1}")
                number = next(remaining, None)
