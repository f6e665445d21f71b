"""The event log in memory: for tests, and for runs of one process."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from qcrd.records.job import Event
from qcrd.runtime.redis.connection import BLOCK_SECONDS
from qcrd.runtime.redis.event_log import (
    MAX_WATCHED_EVENTS,
    EventLevel,
    EventType,
    format_event_id,
    make_event,
    parse_event_id,
)


class MemoryEventLog:
    def __init__(self) -> None:
        self._events: dict[str, list[Event]] = defaultdict(list)
        self._emitted_once: dict[tuple[str, str], Event] = {}
        self._condition = threading.Condition()

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
        fields = {"message": message, "level": level, "type": type, "data": data or {}}
        with self._condition:
            if once is not None and (job_id, once) in self._emitted_once:
                return self._emitted_once[job_id, once]
            new_event = make_event(job_id, self._next_id(job_id), json.dumps(fields))
            self._events[job_id].append(new_event)
            if once is not None:
                self._emitted_once[job_id, once] = new_event
            self._condition.notify_all()
        return new_event

    def _next_id(self, job_id: str) -> tuple[int, int]:
        at = (int(time.time() * 1000), 0)
        if not self._events[job_id]:
            return at
        last = parse_event_id(self._events[job_id][-1].id)
        return max(at, (last[0], last[1] + 1))

    def read(
        self,
        job_id: str,
        after: str | None = None,
        limit: int = 100,
        *,
        block_ms: int | None = None,
        newest_first: bool = False,
    ) -> list[Event]:
        bound = None if after is None else format_event_id(*parse_event_id(after))

        def find_events() -> list[Event]:
            if newest_first:
                older = [e for e in self._events[job_id] if bound is None or e.id < bound]
                return older[::-1][:limit]
            return [e for e in self._events[job_id] if bound is None or e.id > bound][:limit]

        with self._condition:
            if block_ms:
                return (
                    self._condition.wait_for(find_events, min(block_ms / 1000, BLOCK_SECONDS)) or []
                )
            return find_events()

    def watch(self, cursors: Mapping[str, str], block_ms: int) -> dict[str, list[Event]]:
        def find_events() -> dict[str, list[Event]]:
            new = {
                job_id: [e for e in self._events.get(job_id, ()) if e.id > after][
                    :MAX_WATCHED_EVENTS
                ]
                for job_id, after in cursors.items()
            }
            return {job_id: events for job_id, events in new.items() if events}

        with self._condition:
            return self._condition.wait_for(find_events, min(block_ms / 1000, BLOCK_SECONDS)) or {}

    def trim(self, job_id: str, through: str) -> None:
        """Delete the events up to the one with id `through`, and keep the names of `once`."""
        with self._condition:
            self._events[job_id] = [e for e in self._events[job_id] if e.id > through]

    def delete(self, job_id: str) -> None:
        with self._condition:
            self._events.pop(job_id, None)
            for emitted in [key for key in self._emitted_once if key[0] == job_id]:
                del self._emitted_once[emitted]
