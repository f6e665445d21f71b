"""The object store, and records in it: a single one as JSON, many as JSON lines.

Readers look for a manifest that is written last, so writes of several objects need not be atomic.
"""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, Protocol, TypeVar

from pydantic import BaseModel

from qcrd.errors import NotFound, UnreadableRecord
from qcrd.records.base import StoredRecord, parse_stored_record
from qcrd.runtime.settings import StoreSettings
from qcrd.runtime.storage.s3 import S3Store
from qcrd.runtime.storage.unreadable import UnreadableObjects

RecordT = TypeVar("RecordT", bound=BaseModel)


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


def is_there(store: Store, key: str) -> bool:
    """Whether there is such an object."""
    return store.list(key, limit=1) == [key]


def note_stray_object(store: Store, key: str) -> None:
    """Have the readiness probe name an object whose key this release gives to none, and which a
    list leaves out."""
    reason = f"{key} is no object that this release writes there"
    store.unreadable.add(key, reason, lambda: is_there(store, key))


def find_readable_records(
    store: Store, keys: Sequence[str], type: type[RecordT]
) -> list[RecordT | None]:
    """`find_readable_record` of each key, several at once: over a network each takes some twenty
    milliseconds."""
    if len(keys) < 2:
        return [find_readable_record(store, key, type) for key in keys]
    with ThreadPoolExecutor(min(READ_THREADS, len(keys))) as pool:
        return list(pool.map(lambda key: find_readable_record(store, key, type), keys))
