"""A job's history, numbered in the order it happened: lists, SSE and the page read the same one."""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Literal, Protocol, cast

from redis import Redis

from qcrd.errors import Invalid
from qcrd.records.job import Event
from qcrd.runtime import keys
from qcrd.runtime.redis.connection import BLOCK_SECONDS, redis_outage

Level = Literal["info", "warn", "error"]


Type = Literal["message", "metrics"]


FIRST = "0000000000000-000000"
"""Before every event."""


WATCHED = 200


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
        once: str | None = None,
    ) -> Event:
        """The event, which a call adds exactly once however often its command had to be resent.

        `once` names what is told: of each name a job has one event, and every later call returns
        that one, as it was first told, and adds nothing.
        """

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

    def watch(self, cursors: Mapping[str, str], block_ms: int) -> dict[str, list[Event]]:
        """What each job has beyond the event id it is given with, of those that have anything.

        At most `WATCHED` events of a job at a time. When no job has any, one call on one connection
        waits `block_ms` (at most 10 s) for the first of all of them.
        """

    def delete(self, job_id: str) -> None:
        """Forget the history and the names told once; idempotent."""


def event_id(milliseconds: int, sequence: int) -> str:
    return f"{milliseconds:013d}-{sequence:06d}"


def numbers(given: str, param: str = "after") -> tuple[int, int]:
    """The milliseconds and the sequence of an id; `Invalid`, naming `param`, for anything else."""
    match = _ID.fullmatch(given)
    if match is None:
        raise Invalid(f"`{param}`: {given[:80]!r} is not an event id", param=param)
    return int(match[1]), int(match[2])


def event(job_id: str, at: tuple[int, int], fields: dict[str, Any]) -> Event:
    return Event(id=event_id(*at), job_id=job_id, created_at=at[0] / 1000, **fields)


KEPT = 100_000
"""Events a running job keeps; a metrics line per step of a very long run would fill the memory."""

APPEND = """
local known = redis.call('HGET', KEYS[2], ARGV[1])
if known then
  local earlier = cjson.decode(known)
  if earlier[1] >= tonumber(ARGV[2]) then return {earlier[2], earlier[3]} end
end
local entry = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*', 'event', ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], cjson.encode({tonumber(ARGV[2]), entry, ARGV[3]}))
return {entry, ARGV[3]}
"""
"""Keys: the stream, and the latest entry under each name. Arguments: a name, the number of this
call under it, the event, entries kept. A call whose number is not new is one that was sent again
because its answer was lost; it gets the entry that it made."""


class MemoryEvents:
    def __init__(self) -> None:
        self._events: dict[str, list[Event]] = defaultdict(list)
        self._told: dict[tuple[str, str], Event] = {}
        self._arrived = threading.Condition()

    def append(
        self,
        job_id: str,
        message: str,
        *,
        level: Level = "info",
        type: Type = "message",
        data: dict[str, Any] | None = None,
        once: str | None = None,
    ) -> Event:
        fields = {"message": message, "level": level, "type": type, "data": data or {}}
        with self._arrived:
            if once is not None and (job_id, once) in self._told:
                return self._told[job_id, once]
            made = event(job_id, self._next(job_id), json.loads(json.dumps(fields)))
            self._events[job_id].append(made)
            if once is not None:
                self._told[job_id, once] = made
            self._arrived.notify_all()
        return made

    def _next(self, job_id: str) -> tuple[int, int]:
        at = (int(time.time() * 1000), 0)
        if not self._events[job_id]:
            return at
        last = numbers(self._events[job_id][-1].id)
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
        bound = None if after is None else event_id(*numbers(after))

        def found() -> list[Event]:
            if newest_first:
                older = [e for e in self._events[job_id] if bound is None or e.id < bound]
                return older[::-1][:limit]
            return [e for e in self._events[job_id] if bound is None or e.id > bound][:limit]

        with self._arrived:
            if block_ms:
                return self._arrived.wait_for(found, min(block_ms / 1000, BLOCK_SECONDS)) or []
            return found()

    def watch(self, cursors: Mapping[str, str], block_ms: int) -> dict[str, list[Event]]:
        def found() -> dict[str, list[Event]]:
            new = {
                job_id: [e for e in self._events.get(job_id, ()) if e.id > after][:WATCHED]
                for job_id, after in cursors.items()
            }
            return {job_id: events for job_id, events in new.items() if events}

        with self._arrived:
            return self._arrived.wait_for(found, min(block_ms / 1000, BLOCK_SECONDS)) or {}

    def delete(self, job_id: str) -> None:
        with self._arrived:
            self._events.pop(job_id, None)
            for told in [told for told in self._told if told[0] == job_id]:
                del self._told[told]


class _Call(threading.local):
    """Numbers the calls of one thread, which come one after the other."""

    def __init__(self) -> None:
        self.thread = f"call-{secrets.token_hex(6)}"
        self.number = 0

    def next(self) -> tuple[str, int]:
        self.number += 1
        return self.thread, self.number


class RedisEvents:
    """One stream per job; the server numbers the entries."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._append = redis.register_script(APPEND)
        self._call = _Call()

    def append(
        self,
        job_id: str,
        message: str,
        *,
        level: Level = "info",
        type: Type = "message",
        data: dict[str, Any] | None = None,
        once: str | None = None,
    ) -> Event:
        fields = {"message": message, "level": level, "type": type, "data": data or {}}
        name, number = self._call.next() if once is None else (f"once-{once}", 1)
        names = [keys.events_key(job_id), keys.emitted_once_key(job_id)]
        with redis_outage():
            made = self._append(names, [name, number, json.dumps(fields), KEPT])
        entry, body = cast(tuple[str, str], made)
        return event(job_id, numbers(entry), json.loads(body))

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
        bound = None if after is None else "{}-{}".format(*numbers(after))
        with redis_outage():
            if newest_first:
                found = self._redis.xrevrange(key, f"({bound}" if bound else "+", count=limit)
            else:
                found = self._redis.xrange(key, f"({bound}" if bound else "-", count=limit)
        entries = cast(list[tuple[str, dict[str, str]]], found)
        if not entries and block_ms and not newest_first:
            return self.watch({job_id: after or FIRST}, block_ms).get(job_id, [])[:limit]
        return _read(job_id, entries)

    def watch(self, cursors: Mapping[str, str], block_ms: int) -> dict[str, list[Event]]:
        jobs = {keys.events_key(job_id): job_id for job_id in cursors}
        streams = {key: "{}-{}".format(*numbers(cursors[job_id])) for key, job_id in jobs.items()}
        wait = min(block_ms, int(BLOCK_SECONDS * 1000))
        with redis_outage():
            found = self._redis.xread(cast(Any, streams), count=WATCHED, block=wait)
        return {jobs[key]: _read(jobs[key], entries) for key, entries in _streams(found)}

    def delete(self, job_id: str) -> None:
        with redis_outage():
            self._redis.delete(keys.events_key(job_id), keys.emitted_once_key(job_id))


def _read(job_id: str, entries: Any) -> list[Event]:
    return [event(job_id, numbers(at), json.loads(body["event"])) for at, body in entries]


def _streams(answer: Any) -> list[tuple[str, Any]]:
    """Entries by stream; protocol 3 answers with a dict of lists, 2 with a list of pairs."""
    if isinstance(answer, dict):
        return [(key, [e for batch in batches for e in batch]) for key, batches in answer.items()]
    return [(key, entries) for key, entries in answer or ()]
