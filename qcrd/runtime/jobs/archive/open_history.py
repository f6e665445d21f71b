"""Opens all jobs and all events on the real servers."""

from __future__ import annotations

from redis import Redis

from qcrd.runtime.jobs.archive.event_archive import EventArchive
from qcrd.runtime.jobs.archive.event_history import EventHistory
from qcrd.runtime.jobs.archive.job_archive import JobArchive
from qcrd.runtime.jobs.archive.job_history import JobHistory
from qcrd.runtime.jobs.stores.redis_store import RedisJobStore
from qcrd.runtime.redis.event_log import RedisEventLog
from qcrd.runtime.redis.event_trimming import RedisEventTrimmer
from qcrd.runtime.storage.store import Store


def open_job_history(redis: Redis, store: Store) -> JobHistory:
    return JobHistory(RedisJobStore(redis), JobArchive(store))


def open_event_history(redis: Redis, store: Store) -> EventHistory:
    return EventHistory(RedisEventLog(redis), RedisEventTrimmer(redis), EventArchive(store))
