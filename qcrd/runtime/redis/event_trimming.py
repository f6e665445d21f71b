"""Trimming of event logs: what is archived leaves Redis, and a reader learns where Redis begins."""

from __future__ import annotations

from typing import Protocol

from redis import Redis
from redis.exceptions import ResponseError

from qcrd.runtime import redis_keys
from qcrd.runtime.redis.connection import translate_redis_errors
from qcrd.runtime.redis.event_log import BEFORE_FIRST_EVENT, format_event_id, parse_event_id
from qcrd.runtime.redis.memory_event_log import MemoryEventLog

DELETE_THROUGH_SCRIPT = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if last[1] and last[1][1] ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
"""
"""Keys: the stream and the names of `once`. Argument: the id of the entry that must be the last."""


class EventTrimmer(Protocol):
    def find_start(self, job_id: str) -> str | None:
        """The id from which on the log has every event: `BEFORE_FIRST_EVENT` for a log that was
        never trimmed, None where the job has no log."""

    def trim(self, job_id: str, through: str) -> None:
        """Delete the events up to the one with id `through`. Idempotent."""

    def delete_through(self, job_id: str, last: str) -> bool:
        """Delete the whole log, unless it has events after the one with id `last`."""

    def count(self, job_id: str) -> int:
        """The number of events in the log."""


class MemoryEventTrimmer:
    def __init__(self, log: MemoryEventLog) -> None:
        self._log = log
        self._starts: dict[str, str] = {}

    def find_start(self, job_id: str) -> str | None:
        if job_id in self._starts:
            return self._starts[job_id]
        return BEFORE_FIRST_EVENT if self._log.read(job_id, limit=1) else None

    def trim(self, job_id: str, through: str) -> None:
        self._log.trim(job_id, through)
        self._starts[job_id] = _next_id(through)

    def delete_through(self, job_id: str, last: str) -> bool:
        if self._log.read(job_id, last, 1):
            return False
        self._log.delete(job_id)
        self._starts.pop(job_id, None)
        return True

    def count(self, job_id: str) -> int:
        return len(self._log.read(job_id, limit=2**31))


class RedisEventTrimmer:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._delete_through = redis.register_script(DELETE_THROUGH_SCRIPT)

    def find_start(self, job_id: str) -> str | None:
        key = redis_keys.events_key(job_id)
        with translate_redis_errors():
            try:
                found = self._redis.xinfo_stream(key)
            except ResponseError as error:
                if "no such key" in str(error):
                    return None
                raise
        if found["entries-added"] == found["length"]:
            return BEFORE_FIRST_EVENT
        if found["length"] == 0:
            return _next_id(str(found["last-generated-id"]))
        return format_event_id(*parse_event_id(str(found["first-entry"][0])))

    def trim(self, job_id: str, through: str) -> None:
        milliseconds, sequence = parse_event_id(through)
        minimum = f"{milliseconds}-{sequence + 1}"
        with translate_redis_errors():
            self._redis.xtrim(redis_keys.events_key(job_id), minid=minimum, approximate=False)

    def delete_through(self, job_id: str, last: str) -> bool:
        names = [redis_keys.events_key(job_id), redis_keys.emitted_once_key(job_id)]
        with translate_redis_errors():
            return bool(self._delete_through(names, ["{}-{}".format(*parse_event_id(last))]))

    def count(self, job_id: str) -> int:
        with translate_redis_errors():
            return self._redis.xlen(redis_keys.events_key(job_id))


def _next_id(event_id: str) -> str:
    milliseconds, sequence = parse_event_id(event_id)
    return format_event_id(milliseconds, sequence + 1)
