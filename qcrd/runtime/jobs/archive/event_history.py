"""All events of a job, in order: those that its archive has and those that are still in Redis."""

from __future__ import annotations

from typing import Unpack

from qcrd.records.job import Event
from qcrd.runtime.jobs.archive.event_archive import EventArchive
from qcrd.runtime.redis.event_log import (
    BEFORE_FIRST_EVENT,
    EventLog,
    format_event_id,
    parse_event_id,
)
from qcrd.runtime.redis.event_trimming import EventTrimmer
from qcrd.runtime.redis.wrapped_event_log import ReadOptions, WrappedEventLog


class EventHistory(WrappedEventLog):
    """An event log whose reads go on in the archive where Redis ends."""

    def __init__(self, live: EventLog, trimmer: EventTrimmer, archive: EventArchive) -> None:
        super().__init__(live)
        self._trimmer = trimmer
        self._archive = archive

    def read(
        self,
        job_id: str,
        after: str | None = None,
        limit: int = 100,
        **options: Unpack[ReadOptions],
    ) -> list[Event]:
        block_ms, newest_first = options.get("block_ms"), options.get("newest_first", False)
        bound = None if after is None else format_event_id(*parse_event_id(after))
        start = self._trimmer.find_start(job_id)
        # A job that nothing was told of yet has an archive no more than one that was never trimmed.
        if start == BEFORE_FIRST_EVENT or (start is not None and bound and bound >= start):
            found = self._events.read(job_id, after, limit, newest_first=newest_first)
            if len(found) == limit or not newest_first or start == BEFORE_FIRST_EVENT:
                return found or self._wait(job_id, after, limit, block_ms, newest_first)
            return found + self._read_older(job_id, found, after, limit)
        if newest_first:
            found = self._events.read(job_id, after, limit, newest_first=True)
            return found + self._read_older(job_id, found, after, limit)
        found = self._archive.read(job_id, after, limit)
        if len(found) < limit:
            cursor = found[-1].id if found else after
            found += self._events.read(job_id, cursor, limit - len(found))
        return found or self._wait(job_id, after, limit, block_ms, newest_first)

    def _read_older(
        self, job_id: str, found: list[Event], after: str | None, limit: int
    ) -> list[Event]:
        cursor = found[-1].id if found else after
        return self._archive.read(job_id, cursor, limit - len(found), newest_first=True)

    def _wait(
        self, job_id: str, after: str | None, limit: int, block_ms: int | None, newest_first: bool
    ) -> list[Event]:
        if not block_ms or newest_first:
            return []
        return self._events.read(job_id, after, limit, block_ms=block_ms)

    def delete(self, job_id: str) -> None:
        super().delete(job_id)
        self._archive.delete(job_id)
