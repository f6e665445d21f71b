"""A worker's store and event log, which refuse writes once the worker has lost its lease.

The job's record is fenced by the lease's token. An object store and an event log have no tokens, so
the lease is checked before each write; a process that was suspended for longer than its lease
therefore writes nothing when it resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from qcrd.records.job import Event
from qcrd.runtime.redis.event_log import EventLevel, EventLog, EventType
from qcrd.runtime.storage.store import Store, StoreReads

LeaseCheck = Callable[[], None]
"""Raises `LeaseLost`."""


class FencedStore(StoreReads):
    """`store`, with the lease checked before each write; reads are always allowed."""

    def __init__(self, store: Store, check: LeaseCheck) -> None:
        super().__init__(store)
        self._check = check

    def put(self, key: str, data: bytes | BinaryIO, *, length: int = -1) -> None:
        self._check()
        self._store.put(key, data, length=length)

    def delete(self, key: str) -> None:
        self._check()
        self._store.delete(key)


class FencedEventLog:
    """`events`, with the lease checked before each write; reads are always allowed."""

    def __init__(self, events: EventLog, check: LeaseCheck) -> None:
        self._events = events
        self._check = check

    def append(
        self,
        job_id: str,
        message: str,
        *,
        level: EventLevel = "info",
        type: EventType = "message",
        data: dict[str, Any] | None = None,
        once: str | None = None,
    ) -> Event:
        self._check()
        return self._events.append(job_id, message, level=level, type=type, data=data, once=once)

    def read(
        self,
        job_id: str,
        after: str | None = None,
        limit: int = 100,
        *,
        block_ms: int | None = None,
        newest_first: bool = False,
    ) -> list[Event]:
        return self._events.read(job_id, after, limit, block_ms=block_ms, newest_first=newest_first)

    def watch(self, cursors: Mapping[str, str], block_ms: int) -> dict[str, list[Event]]:
        return self._events.watch(cursors, block_ms)

    def delete(self, job_id: str) -> None:
        self._check()
        self._events.delete(job_id)
