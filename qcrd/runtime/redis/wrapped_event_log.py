"""An event log around another one: what those begin with that add to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

from qcrd.records.job import Event
from qcrd.runtime.redis.event_log import EventLevel, EventLog, EventType


class AppendOptions(TypedDict, total=False):
    level: EventLevel
    type: EventType
    data: dict[str, Any] | None
    once: str | None


class ReadOptions(TypedDict, total=False):
    block_ms: int | None
    newest_first: bool


class WrappedEventLog:
    """Passes every call on to `events`."""

    def __init__(self, events: EventLog) -> None:
        self._events = events

    def append(self, job_id: str, message: str, **options: Unpack[AppendOptions]) -> Event:
        return self._events.append(job_id, message, **options)

    def read(
        self,
        job_id: str,
        after: str | None = None,
        limit: int = 100,
        **options: Unpack[ReadOptions],
    ) -> list[Event]:
        return self._events.read(job_id, after, limit, **options)

    def watch(self, cursors: Mapping[str, str], block_ms: int) -> dict[str, list[Event]]:
        return self._events.watch(cursors, block_ms)

    def delete(self, job_id: str) -> None:
        self._events.delete(job_id)
