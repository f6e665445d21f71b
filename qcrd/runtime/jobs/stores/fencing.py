"""A worker's store and event log, which refuse writes once the worker has lost its lease.

The job's record is fenced by the lease's token. An object store and an event log have no tokens, so
the lease is checked before each write; a process that was suspended for longer than its lease
therefore writes nothing when it resumes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Unpack

from qcrd.records.job import Event
from qcrd.runtime.redis.event_log import EventLog
from qcrd.runtime.redis.wrapped_event_log import AppendOptions, WrappedEventLog
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


class FencedEventLog(WrappedEventLog):
    """`events`, with the lease checked before each write; reads are always allowed."""

    def __init__(self, events: EventLog, check: LeaseCheck) -> None:
        super().__init__(events)
        self._check = check

    def append(self, job_id: str, message: str, **options: Unpack[AppendOptions]) -> Event:
        self._check()
        return super().append(job_id, message, **options)

    def delete(self, job_id: str) -> None:
        self._check()
        super().delete(job_id)
