"""The event log of a job, in order; the list of events, SSE and the web page read it."""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal, Protocol, cast

from pydantic_core import from_json
from redis import Redis
from redis.exceptions import ResponseError

from qcrd.errors import Invalid
from qcrd.records.job import Event
from qcrd.runtime import redis_keys
from qcrd.runtime.redis.connection import BLOCK_SECONDS, translate_redis_errors

EventLevel = Literal["info", "warn", "error"]
EventType = Literal["message", "metrics"]

BEFORE_FIRST_EVENT = "0000000000000-000000"
"""Sorts before every event id."""
MAX_WATCHED_EVENTS = 200
UNREADABLE_EVENT = "an event that this release cannot read"
_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_MAX_ID_PART = 2**64 - 1
"""Of a stream of Redis."""


class EventLog(Protocol):
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
        """Append an event, exactly once even if the command is resent, and return it.

        A job has one event per name `once`: later calls with the name return the first event and
        append nothing.
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
        """At most `limit` events after the one with id `after`.

        With `newest_first`, the events before it, backwards. With `block_ms` a read that finds
        nothing waits that long (at most 10 s) for the next event. A malformed `after` is
        `Invalid`; the event that `after` names need not exist.
        """

    def watch(self, cursors: Mapping[str, str], block_ms: int) -> dict[str, list[Event]]:
        """The new events of several jobs; `cursors` has the last event id seen of each.

        At most `MAX_WATCHED_EVENTS` per job; jobs without new events are left out. When no job has
        any, waits `block_ms` (at most 10 s) for the first one.
        """

    def delete(self, job_id: str) -> None:
        """Delete the events and the names of `once`; idempotent."""


def format_event_id(milliseconds: int, sequence: int) -> str:
    return f"{milliseconds:013d}-{sequence:06d}"


def parse_event_id(value: str, param: str = "after") -> tuple[int, int]:
    """The milliseconds and the sequence of an id; `Invalid`, naming `param`, for anything else."""
    match = _ID.fullmatch(value)
    if match is None or max(at := (int(match[1]), int(match[2]))) > _MAX_ID_PART:
        raise Invalid(f"`{param}`: {value[:80]!r} is not an event id", param=param)
    return at


def make_event(job_id: str, at: tuple[int, int], body: str | None) -> Event:
    """The event stored as the JSON `body`; a placeholder where this release cannot read it, so that
    the events around it are."""
    place = {"id": format_event_id(*at), "job_id": job_id, "created_at": at[0] / 1000}
    try:
        # A text that was no UTF-8 is none that it takes, which is the TypeError here; `ValueError`
        # is that of its own and of a record's validation.
        return Event.model_validate({**from_json(body or ""), **place})
    except (TypeError, ValueError):
        return Event.model_validate({**place, "message": UNREADABLE_EVENT, "level": "warn"})


APPEND_SCRIPT = """
local known = redis.call('HGET', KEYS[2], ARGV[1])
if known then
  local is_json, earlier = pcall(cjson.decode, known)
  if is_json and type(earlier) == 'table' and type(earlier[1]) == 'number'
      and earlier[1] >= tonumber(ARGV[2]) then return {earlier[2], earlier[3]} end
end
local entry = redis.call('XADD', KEYS[1], '*', 'event', ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], cjson.encode({tonumber(ARGV[2]), entry, ARGV[3]}))
return {entry, ARGV[3]}
"""
"""Keys: the stream, and the latest entry under each name. Arguments: a name, the number of this
call under it, the event. A call with a known number was resent after a lost reply; it returns the
entry that it made. A damaged note of an earlier call is none: what has to be said is said. Nothing
is dropped: what makes a log long is moved to its archive."""


class _CallCounter(threading.local):
    """Numbers the sequential calls of one thread."""

    def __init__(self) -> None:
        self.thread = f"call-{secrets.token_hex(6)}"
        self.number = 0

    def next_call(self) -> tuple[str, int]:
        self.number += 1
        return self.thread, self.number


class RedisEventLog:
    """One stream per job; the server numbers the entries."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._append_script = redis.register_script(APPEND_SCRIPT)
        self._call_counter = _CallCounter()

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
        name, number = self._call_counter.next_call() if once is None else (f"once-{once}", 1)
        names = [redis_keys.events_key(job_id), redis_keys.emitted_once_key(job_id)]
        with translate_redis_errors():
            result = self._append_script(names, [name, number, json.dumps(fields)])
        entry, body = cast(tuple[str, str], result)
        return make_event(job_id, parse_event_id(entry), body)

    def read(
        self,
        job_id: str,
        after: str | None = None,
        limit: int = 100,
        *,
        block_ms: int | None = None,
        newest_first: bool = False,
    ) -> list[Event]:
        key = redis_keys.events_key(job_id)
        bound = None if after is None else "{}-{}".format(*parse_event_id(after))
        with translate_redis_errors():
            if newest_first:
                response = self._redis.xrevrange(key, f"({bound}" if bound else "+", count=limit)
            else:
                response = self._redis.xrange(key, f"({bound}" if bound else "-", count=limit)
        entries = cast(list[tuple[str, dict[str, str]]], response)
        if not entries and block_ms and not newest_first:
            return self.watch({job_id: after or BEFORE_FIRST_EVENT}, block_ms).get(job_id, [])[
                :limit
            ]
        return _parse_entries(job_id, entries)

    def watch(self, cursors: Mapping[str, str], block_ms: int) -> dict[str, list[Event]]:
        jobs = {redis_keys.events_key(job_id): job_id for job_id in cursors}
        streams = {
            key: "{}-{}".format(*parse_event_id(cursors[job_id])) for key, job_id in jobs.items()
        }
        wait = min(block_ms, int(BLOCK_SECONDS * 1000))
        with translate_redis_errors():
            try:
                response = self._read_streams(streams, wait)
            except ResponseError as error:
                if not str(error).startswith("WRONGTYPE"):
                    raise
                # One read is of all jobs, and one of them has another kind of value there.
                kept = {key for key in streams if self._redis.type(key) in ("stream", "none")}
                response = self._read_streams({key: streams[key] for key in kept}, wait)
        return {
            jobs[key]: _parse_entries(jobs[key], entries)
            for key, entries in _entries_by_stream(response)
        }

    def _read_streams(self, streams: Mapping[str, str], wait: int) -> Any:
        if not streams:
            time.sleep(wait / 1000)
            return None
        return self._redis.xread(cast(Any, streams), count=MAX_WATCHED_EVENTS, block=wait)

    def delete(self, job_id: str) -> None:
        with translate_redis_errors():
            self._redis.delete(redis_keys.events_key(job_id), redis_keys.emitted_once_key(job_id))


def _parse_entries(job_id: str, entries: Any) -> list[Event]:
    return [make_event(job_id, parse_event_id(at), body.get("event")) for at, body in entries]


def _entries_by_stream(response: Any) -> list[tuple[str, Any]]:
    """Entries by stream; RESP3 returns a dict of lists, RESP2 a list of pairs."""
    if isinstance(response, dict):
        return [(key, [e for batch in batches for e in batch]) for key, batches in response.items()]
    return [(key, entries) for key, entries in response or ()]
