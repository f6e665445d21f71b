"""The object store, and records in it: a single one as JSON, many as JSON lines.

Readers look for a manifest that is written last, so writes of several objects need not be atomic.
"""

from __future__ import annotations

import base64
import io
import tempfile
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import IO, BinaryIO, Protocol, TypeVar, cast

import zstandard
from pydantic import BaseModel

from qcrd.errors import NotFound, UnreadableRecord
from qcrd.records.base import StoredRecord, parse_stored_record
from qcrd.runtime.settings import StoreSettings
from qcrd.runtime.storage.s3 import S3Store
from qcrd.runtime.storage.unreadable import UnreadableObjects

RecordT = TypeVar("RecordT", bound=BaseModel)

SPOOL_BYTES = 8 * 2**20
"""Bytes of lines kept in memory before they are spooled to a temporary file."""
READ_BYTES = 2**13
"""Compressed bytes that are read at once: of lines that are all alike they are some hundred times
as many in memory."""


READ_THREADS = 8
"""Records that one list reads at once."""


class Store(Protocol):
    """Every method raises `Transient` while the store is unreachable or full, and while it refuses
    (code `store_refuses`): an operator mends that, and what waited goes on."""

    unreadable: UnreadableObjects

    def put(self, key: str, data: bytes | BinaryIO, *, length: int = -1) -> None:
        """Write or replace an object; a stream is read to its end.

        With `length` in bytes, a stream of known size is uploaded in larger, parallel parts.
        """

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """The object as a stream, without holding it in memory. `NotFound`."""

    def list(self, prefix: str, *, after: str = "", limit: int | None = None) -> list[str]:
        """Keys that start with `prefix`, in order: at most `limit` of those that follow the key
        `after`, which need not exist."""

    def delete(self, key: str) -> None:
        """Idempotent."""

    def presign_url(self, key: str, *, seconds: int) -> str:
        """A URL that reads the object, with no other credentials, for `seconds`."""


def _object_not_found(key: str) -> NotFound:
    return NotFound(f"there is no object {key}")


class StoreReads:
    """The reading half of a `Store`, from another one: for stores that bound what is written."""

    def __init__(self, store: Store) -> None:
        self.unreadable = store.unreadable
        self._store = store

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        return self._store.open(key)

    def list(self, prefix: str, *, after: str = "", limit: int | None = None) -> list[str]:
        return self._store.list(prefix, after=after, limit=limit)

    def presign_url(self, key: str, *, seconds: int) -> str:
        return self._store.presign_url(key, seconds=seconds)


class MemoryStore:
    def __init__(self) -> None:
        self.unreadable = UnreadableObjects()
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, key: str, data: bytes | BinaryIO, *, length: int = -1) -> None:
        body = data if isinstance(data, bytes) else data.read(length)
        with self._lock:
            self._objects[key] = body

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        with self._lock:
            body = self._objects.get(key)
        if body is None:
            raise _object_not_found(key)
        yield io.BytesIO(body)

    def list(self, prefix: str, *, after: str = "", limit: int | None = None) -> list[str]:
        with self._lock:
            found = sorted(key for key in self._objects if key.startswith(prefix) and key > after)
        return found[:limit]

    def delete(self, key: str) -> None:
        with self._lock:
            self._objects.pop(key, None)

    def presign_url(self, key: str, *, seconds: int) -> str:
        with self.open(key) as body:
            return "data:;base64," + base64.b64encode(body.read()).decode()


def open_store(settings: StoreSettings) -> Store:
    """The store connects on first use, so it may start after its clients."""
    return S3Store(settings)


def read_object(store: Store, key: str) -> bytes:
    with store.open(key) as body:
        return body.read()


def write_record(store: Store, key: str, record: BaseModel) -> None:
    store.put(key, record.model_dump_json(by_alias=True, indent=1).encode())


def read_record(store: Store, key: str, type: type[RecordT]) -> RecordT:
    """`NotFound` when there is no object; `UnreadableRecord` when it is not a `type` that this
    release can read, or has another `id` than its key: what is done to it would be done to that."""
    record = parse_stored_record(type, read_object(store, key), key)
    record_id = getattr(record, "id", None) if isinstance(record, StoredRecord) else None
    if record_id is not None and record_id not in key.removesuffix(".json").split("/"):
        raise UnreadableRecord(
            f"{key} cannot be read as {type.__name__} by this release: it has another `id`"
        )
    return record


def find_record(store: Store, key: str, type: type[RecordT]) -> RecordT | None:
    """None when there is no object; `UnreadableRecord` as in `read_record`."""
    try:
        return read_record(store, key, type)
    except NotFound:
        return None


def find_readable_record(store: Store, key: str, type: type[RecordT]) -> RecordT | None:
    """The record for a list, which none of its records may break: None when there is no object, as
    for a key that was deleted since it was listed, and when it cannot be read, with an alarm."""
    try:
        found = find_record(store, key, type)
    except UnreadableRecord as error:
        store.unreadable.add(key, error.message, lambda: not _is_readable(store, key, type))
        return None
    store.unreadable.remove(key)
    return found


def _is_readable(store: Store, key: str, type: type[BaseModel]) -> bool:
    """Whether the record can be read now, or is gone."""
    try:
        find_record(store, key, type)
    except UnreadableRecord:
        return False
    return True


def _is_there(store: Store, key: str) -> bool:
    return store.list(key, limit=1) == [key]


def note_stray_object(store: Store, key: str) -> None:
    """Have the readiness probe name an object whose key this release gives to none, and which a
    list leaves out."""
    reason = f"{key} is no object that this release writes there"
    store.unreadable.add(key, reason, lambda: _is_there(store, key))


def find_readable_records(
    store: Store, keys: Sequence[str], type: type[RecordT]
) -> list[RecordT | None]:
    """`find_readable_record` of each key, several at once: over a network each takes some twenty
    milliseconds."""
    if len(keys) < 2:
        return [find_readable_record(store, key, type) for key in keys]
    with ThreadPoolExecutor(min(READ_THREADS, len(keys))) as pool:
        return list(pool.map(lambda key: find_readable_record(store, key, type), keys))


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
        store.unreadable.add(key, error.message, lambda: _is_there(store, key))


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
        store.unreadable.add(place, error.message, lambda: _is_there(store, key))
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
