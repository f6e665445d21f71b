"""Where job records live: Redis, and its in-memory twin. The rules are in `states`."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

from redis import Redis
from redis.exceptions import WatchError

from qcrd.errors import Conflict, NotFound, Transient
from qcrd.records import Job
from qcrd.runtime import keys
from qcrd.runtime.connection import redis_outage
from qcrd.runtime.states import TERMINAL

Change = Callable[[Job], Job]

CONTENDED = 200
"""Lost races after which an update gives up; each loss is somebody else's success."""


def _missing(job_id: str, param: str | None = None) -> NotFound:
    return NotFound(f"there is no job {job_id}", param=param)


class JobStore(Protocol):
    def create(self, job: Job) -> None:
        """`Conflict` when the id is taken."""

    def get(self, job_id: str) -> Job:
        """`NotFound` when there is none."""

    def update(self, job_id: str, change: Change) -> Job:
        """Apply `change` to the newest record, atomically, and return the result.

        `change` is pure and may be called several times; what it raises comes out unchanged, and
        returning its argument itself writes nothing. `NotFound` when there is no such job.
        """

    def list(self, after: str | None, limit: int, *, active: bool = False) -> list[Job]:
        """At most `limit` jobs, newest first, that are older than job `after`.

        `active` leaves out those that are over. `NotFound` (param `after`) for an unknown one.
        """

    def delete(self, job_id: str) -> None:
        """Idempotent."""


class MemoryJobs:
    """Records are kept as JSON, so that what a twin accepts Redis accepts as well."""

    def __init__(self) -> None:
        self._records: dict[str, str] = {}
        self._lock = threading.RLock()

    def create(self, job: Job) -> None:
        with self._lock:
            if job.id in self._records:
                raise Conflict(f"job {job.id} exists already")
            self._records[job.id] = job.model_dump_json()

    def get(self, job_id: str) -> Job:
        with self._lock:
            if job_id not in self._records:
                raise _missing(job_id)
            return Job.model_validate_json(self._records[job_id])

    def update(self, job_id: str, change: Change) -> Job:
        with self._lock:
            after = change(self.get(job_id))
            self._records[job_id] = after.model_dump_json()
            return after

    def list(self, after: str | None, limit: int, *, active: bool = False) -> list[Job]:
        with self._lock:
            jobs = [Job.model_validate_json(record) for record in self._records.values()]
        jobs = [job for job in jobs if not active or job.status not in TERMINAL]
        jobs.sort(key=lambda job: (job.created_at, job.id), reverse=True)
        if after is None:
            return jobs[:limit]
        places = [place for place, job in enumerate(jobs) if job.id == after]
        if not places:
            raise _missing(after, "after")
        return jobs[places[0] + 1 :][:limit]

    def delete(self, job_id: str) -> None:
        with self._lock:
            self._records.pop(job_id, None)


class RedisJobs:
    """One JSON value per job, and two sorted sets of ids by creation time: all, and active ones."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def create(self, job: Job) -> None:
        with redis_outage():
            if not self._create(job):
                raise Conflict(f"job {job.id} exists already")

    def _create(self, job: Job) -> bool:
        key, body = keys.job_key(job.id), job.model_dump_json()
        with self._redis.pipeline() as pipe:
            pipe.set(key, body, nx=True)
            pipe.zadd(keys.JOBS, {job.id: job.created_at}, nx=True)
            if job.status not in TERMINAL:
                pipe.zadd(keys.ACTIVE_JOBS, {job.id: job.created_at}, nx=True)
            pipe.get(key)
            # The connection may have broken after the server had obeyed: our own record is a yes.
            return bool(pipe.execute()[-1] == body)

    def get(self, job_id: str) -> Job:
        with redis_outage():
            body = cast(str | None, self._redis.get(keys.job_key(job_id)))
        if body is None:
            raise _missing(job_id)
        return Job.model_validate_json(body)

    def update(self, job_id: str, change: Change) -> Job:
        with redis_outage(), self._redis.pipeline() as pipe:
            for _ in range(CONTENDED):
                try:
                    return self._compare_and_set(pipe, job_id, change)
                except WatchError:
                    # A connection that broke while watching comes here too, and is made anew.
                    pipe.reset()
                    time.sleep(random.uniform(0.0, 0.02))
        raise Transient(f"job {job_id} is written by too many at once")

    def _compare_and_set(self, pipe: Any, job_id: str, change: Change) -> Job:
        key = keys.job_key(job_id)
        pipe.watch(key)
        body = cast(str | None, pipe.get(key))
        if body is None:
            raise _missing(job_id)
        before = Job.model_validate_json(body)
        after = change(before)
        if after is not before:
            pipe.multi()
            pipe.set(key, after.model_dump_json())
            if after.status in TERMINAL:
                pipe.zrem(keys.ACTIVE_JOBS, job_id)
            pipe.execute()
        return after

    def list(self, after: str | None, limit: int, *, active: bool = False) -> list[Job]:
        index = keys.ACTIVE_JOBS if active else keys.JOBS
        with redis_outage():
            start = 0
            if after is not None:
                place = cast(int | None, self._redis.zrevrank(index, after))
                if place is None:
                    raise _missing(after, "after")
                start = place + 1
            ids = cast(list[str], self._redis.zrange(index, start, start + limit - 1, desc=True))
            found = self._redis.mget([keys.job_key(job_id) for job_id in ids]) if ids else []
        bodies = cast(list[str | None], found)
        return [Job.model_validate_json(body) for body in bodies if body is not None]

    def delete(self, job_id: str) -> None:
        with redis_outage(), self._redis.pipeline() as pipe:
            pipe.delete(keys.job_key(job_id))
            pipe.zrem(keys.JOBS, job_id)
            pipe.zrem(keys.ACTIVE_JOBS, job_id)
            pipe.execute()
