"""Job records in Redis, a JSON value each, and the sorted sets that they are found by."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from typing import Any, cast

from redis import Redis
from redis.exceptions import ConnectionError, TimeoutError, WatchError

from qcrd.errors import Conflict, NotFound, Transient
from qcrd.records.job import Job, JobStatus
from qcrd.runtime import redis_keys
from qcrd.runtime.jobs.state_machine import check_running_limit, index_scores
from qcrd.runtime.jobs.store import (
    JobChange,
    JobListing,
    is_readable,
    make_not_found_error,
    parse_job,
    parse_readable_jobs,
)
from qcrd.runtime.redis.connection import translate_redis_errors

MAX_UPDATE_CONFLICTS = 200
"""Lost races after which an update gives up; in each one another writer succeeded."""
PAGE_SIZE = 100
"""Records read from Redis at once, of about 4 kB each."""


CREATE_SCRIPT = """
if not redis.call('SET', KEYS[1], ARGV[1], 'NX') then return redis.call('GET', KEYS[1]) end
for i = 2, #KEYS do redis.call('ZADD', KEYS[i], ARGV[i + 1], ARGV[2]) end
"""
"""Keys: the record, and the sorted sets that contain it. Arguments: the record, the job's id, its
score in each set. Returns the existing record, if there is one."""


class RedisJobStore(JobListing):
    """One JSON value per job, updated together with the sorted sets of `index_scores`."""

    def __init__(self, redis: Redis, *, page_size: int = PAGE_SIZE) -> None:
        self._redis = redis
        self._page_size = page_size
        self._create_script = redis.register_script(CREATE_SCRIPT)

    def now(self) -> float:
        with translate_redis_errors():
            seconds, microseconds = self._redis.time()
        return seconds + microseconds / 1e6

    def create(self, job: Job) -> None:
        scores, body = index_scores(job), job.model_dump_json()
        names = [redis_keys.job_key(job.id), *scores]
        with translate_redis_errors():
            existing = self._create_script(names, [body, job.id, *scores.values()])
        # After a lost reply the script runs twice and finds its own record: that is success.
        if existing not in (None, body):
            raise Conflict(f"job {job.id} exists already")

    def get(self, job_id: str) -> Job:
        with translate_redis_errors():
            body = cast(str | None, self._redis.get(redis_keys.job_key(job_id)))
        if body is None:
            raise make_not_found_error(job_id)
        return parse_job(job_id, body)

    def update(self, job_id: str, change: JobChange) -> Job:
        unconfirmed: list[str] = []
        with translate_redis_errors(), self._redis.pipeline() as pipe:
            for _ in range(MAX_UPDATE_CONFLICTS):
                try:
                    return self._compare_and_set(pipe, job_id, change, unconfirmed)
                except WatchError:
                    # A connection lost while watching raises this too; the pipe then reconnects.
                    pipe.reset()
                    time.sleep(random.uniform(0.0, 0.02))
        raise Transient(f"job {job_id} is written by too many at once")

    def _compare_and_set(
        self, pipe: Any, job_id: str, change: JobChange, unconfirmed: MutableSequence[str]
    ) -> Job:
        """`unconfirmed` are records sent without a reply, which may have been written: `change`
        must not be applied to its own result."""
        key = redis_keys.job_key(job_id)
        pipe.watch(key)
        body = cast(str | None, pipe.get(key))
        if body is None:
            raise make_not_found_error(job_id)
        before = parse_job(job_id, body)
        if body in unconfirmed:
            return before
        after = change(before)
        if after is before:
            return after
        if after.running_limit is not None and after.status is not before.status:
            running_key = redis_keys.running_jobs_key(after.owner)
            pipe.watch(running_key)
            check_running_limit(before, after, cast(int, pipe.zcard(running_key)))
        pipe.multi()
        pipe.set(key, written := after.model_dump_json())
        _reindex(pipe, job_id, index_scores(before), index_scores(after))
        try:
            pipe.execute()
        except WatchError as error:
            if isinstance(error.__context__, ConnectionError | TimeoutError):
                unconfirmed.append(written)
            raise
        return after

    def _read_page(self, index: str, start: int, limit: int) -> list[Job]:
        """`limit` jobs unless the index ends, however many are left out."""
        jobs: list[Job] = []
        while len(jobs) < limit:
            stop = start + limit - len(jobs) - 1
            ids = cast(list[str], self._redis.zrange(index, start, stop, desc=True))
            if not ids:
                break
            jobs += self._get_many(ids)
            start += len(ids)
        return jobs

    def _get_many(self, ids: Sequence[str]) -> list[Job]:
        """The existing jobs, in the order of `ids`."""
        values = self._redis.mget([redis_keys.job_key(job_id) for job_id in ids]) if ids else []
        bodies = dict(zip(ids, cast("list[str | None]", values), strict=True))
        existing = {job_id: body for job_id, body in bodies.items() if body is not None}
        return parse_readable_jobs(existing, self._note_unreadable)

    def _note_unreadable(self, job_id: str, reason: str) -> None:
        self._redis.hset(redis_keys.UNREADABLE_JOBS, job_id, reason)

    def list_unreadable(self, *, active: bool = False) -> dict[str, str]:
        if active:
            for _ in self.iter_active():
                pass  # notes them, each in its page
        with translate_redis_errors():
            noted = cast(dict[str, str], self._redis.hgetall(redis_keys.UNREADABLE_JOBS))
        for job_id in list(noted):
            if is_readable(self, job_id):
                with translate_redis_errors():
                    self._redis.hdel(redis_keys.UNREADABLE_JOBS, job_id)
                del noted[job_id]
        return {job_id: noted[job_id] for job_id in noted if not active or self._is_active(job_id)}

    def _is_active(self, job_id: str) -> bool:
        with translate_redis_errors():
            return self._redis.zscore(redis_keys.ACTIVE_JOBS, job_id) is not None

    def delete(self, job_id: str) -> None:
        try:
            job = self.get(job_id)
        except NotFound:
            return
        with translate_redis_errors(), self._redis.pipeline() as pipe:
            pipe.delete(redis_keys.job_key(job_id))
            _reindex(pipe, job_id, index_scores(job), {})
            pipe.execute()

    def list_waiting(self, task: str, limit: int, *, start: int = 0) -> list[Job]:
        with translate_redis_errors():
            return self._read_page(redis_keys.waiting_jobs_key(task), start, limit)

    def queue_position(self, task: str, job_id: str) -> int | None:
        with translate_redis_errors():
            return cast(int | None, self._redis.zrevrank(redis_keys.waiting_jobs_key(task), job_id))

    def queue_length(self, task: str) -> int:
        with translate_redis_errors():
            return self._redis.zcard(redis_keys.waiting_jobs_key(task))

    def list_held(self, task: str) -> list[Job]:
        with translate_redis_errors():
            return self._read_page(redis_keys.held_jobs_key(task), 0, 2**31)

    def count_held(self, task: str) -> int:
        with translate_redis_errors():
            return self._redis.zcard(redis_keys.held_jobs_key(task))

    def count_by_status(self) -> dict[JobStatus, int]:
        with translate_redis_errors(), self._redis.pipeline(transaction=False) as pipe:
            for status in JobStatus:
                pipe.zcard(redis_keys.jobs_by_status_key(status))
            return dict(zip(JobStatus, pipe.execute(), strict=True))

    def find_place(self, job_id: str) -> tuple[float, str] | None:
        with translate_redis_errors():
            score = self._redis.zscore(redis_keys.JOBS, job_id)
        return None if score is None else (score, job_id)

    def list_older(self, place: tuple[float, str] | None, limit: int) -> Sequence[Job]:
        start = 0
        with translate_redis_errors():
            if place is not None:
                # Of those with the same time, the larger ids come first.
                start = self._redis.zcount(redis_keys.JOBS, f"({place[0]!r}", "+inf")
                same = self._redis.zrange(redis_keys.JOBS, place[0], place[0], byscore=True)
                start += sum(job_id >= place[1] for job_id in cast("Sequence[str]", same))
            return self._read_page(redis_keys.JOBS, start, limit)

    def iter_active(self) -> Iterator[Job]:
        with translate_redis_errors():
            ids = cast(
                "Sequence[str]", self._redis.zrange(redis_keys.ACTIVE_JOBS, 0, -1, desc=True)
            )
        for start in range(0, len(ids), self._page_size):
            with translate_redis_errors():
                page = self._get_many(ids[start : start + self._page_size])
            yield from (job for job in page if not job.concluded)


def _reindex(pipe: Any, job_id: str, old: Mapping[str, float], new: Mapping[str, float]) -> None:
    """Queue on `pipe` the commands that move a job from its `old` sorted sets to its `new` ones."""
    for index in old.keys() - new.keys():
        pipe.zrem(index, job_id)
    for index, score in new.items():
        if old.get(index) != score:
            pipe.zadd(index, {job_id: score})
