"""A job's history, numbered in the order it happened: lists, SSE and the page read the same one.

An id is `<milliseconds>-<sequence>`, both zero-padded, so that ids sort as strings.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import defaultdict
from typing import Any, Literal, Protocol, cast

from redis import Redis

from qcrd.errors import Invalid
from qcrd.records import Event
from qcrd.runtime import keys
from qcrd.runtime.connection import BLOCK_SECONDS, redis_outage

Level = Literal["info", "warn", "error"]
Type = Literal["message", "metrics"]

KEPT = 100_000
"""Events a running job keeps; a metrics line per step of a very long run would fill the memory."""

_ID = re.compile(r"([0-9]{1,15})-([0-9]{1,9})")


class Events(Protocol):
    def append(
        self,
        job_id: str,
        message: str,
        *,
        level: Level = "info",
        type: Type = "message",
        data: dict[str, Any] | None = None,
    ) -> Event: ...

    def read(
        self,
        job_id: str,
        after: str | None = None,
        limit: int = 100,
        *,
        block_ms: int | None = None,
        newest_first: bool = False,
    ) -> list[Event]:
        """At most `limit` events beyond the one with id `after`, which is itself left out.

        `newest_first` reads backwards, and `after` then means older. With `block_ms` a read that
        finds nothing waits that long (at most 10 s) for the next event. A malformed `after` is
        `Invalid`; one that names no event reads on from where it would have been.
        """

    def delete(self, job_id: str) -> None: ...


def _event_id(milliseconds: int, sequence: int) -> str:
    return f"{milliseconds:013d}-{sequence:06d}"


def _numbers(event_id: str) -> tuple[int, int]:
    match = _ID.fullmatch(event_id)
    if match is None:
        raise Invalid(f"`after`: {event_id[:80]!r} is not an event id", param="after")
    return int(match[1]), int(match[2])


def _event(job_id: str, at: tuple[int, int], fields: dict[str, Any]) -> Event:
    return Event(id=_event_id(*at), job_id=job_id, created_at=at[0] / 1000, **fields)


class MemoryEvents:
    def __init__(self) -> None:
        self._events: dict[str, list[Event]] = defaultdict(list)
        self._arrived = threading.Condition()

    def append(
        self,
        job_id: str,
        message: str,
        *,
        level: Level = "info",
        type: Type = "message",
        data: dict[str, Any] | None = None,
    ) -> Event:
        fields = {"message": message, "level": level, "type": type, "data": data or {}}
        with self._arrived:
            at = (int(time.time() * 1000), 0)
            if self._events[job_id]:
                last = _numbers(self._events[job_id][-1].id)
                at = max(at, (last[0], last[1] + 1))
            event = _event(job_id, at, json.loads(json.dumps(fields)))
            self._events[job_id].append(event)
            self._arrived.notify_all()
        return event

    def read(
        self,
        job_id: str,
        after: str | None = None,
        limit: int = 100,
        *,
        block_ms: int | None = None,
        newest_first: bool = False,
    ) -> list[Event]:
        bound = None if after is None else _event_id(*_numbers(after))

        def found() -> list[Event]:
            if newest_first:
                older = [e for e in self._events[job_id] if bound is None or e.id < bound]
                return older[::-1][:limit]
            return [e for e in self._events[job_id] if bound is None or e.id > bound][:limit]

        with self._arrived:
            if block_ms:
                return self._arrived.wait_for(found, min(block_ms / 1000, BLOCK_SECONDS)) or []
            return found()

    def delete(self, job_id: str) -> None:
        with self._arrived:
            self._events.pop(job_id, None)


class RedisEvents:
    """One stream per job; the server numbers the entries."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def append(
        self,
        job_id: str,
        message: str,
        *,
        level: Level = "info",
        type: Type = "message",
        data: dict[str, Any] | None = None,
    ) -> Event:
        fields = {"message": message, "level": level, "type": type, "data": data or {}}
        body = json.dumps(fields)
        with redis_outage():
            entry = self._redis.xadd(
                keys.events_key(job_id), {"event": body}, maxlen=KEPT, approximate=True
            )
        return _event(job_id, _numbers(str(entry)), json.loads(body))

    def read(
        self,
        job_id: str,
        after: str | None = None,
        limit: int = 100,
        *,
        block_ms: int | None = None,
        newest_first: bool = False,
    ) -> list[Event]:
        key = keys.events_key(job_id)
        bound = None if after is None else "{}-{}".format(*_numbers(after))
        with redis_outage():
            if newest_first:
                found = self._redis.xrevrange(key, f"({bound}" if bound else "+", count=limit)
            else:
                found = self._redis.xrange(key, f"({bound}" if bound else "-", count=limit)
            if not found and block_ms and not newest_first:
                wait = min(block_ms, int(BLOCK_SECONDS * 1000))
                streams = self._redis.xread({key: bound or "0-0"}, count=limit, block=wait)
                found = _entries(streams)
        entries = cast(list[tuple[str, dict[str, str]]], found)
        return [_event(job_id, _numbers(at), json.loads(body["event"])) for at, body in entries]

    def delete(self, job_id: str) -> None:
        with redis_outage():
            self._redis.delete(keys.events_key(job_id))


def _entries(streams: Any) -> Any:
    """The one stream's entries; protocol 3 answers with a dict of lists, 2 with a list of pairs."""
    if isinstance(streams, dict):
        return [entry for batches in streams.values() for batch in batches for entry in batch]
    return [entry for _, entries in streams or () for entry in entries]
