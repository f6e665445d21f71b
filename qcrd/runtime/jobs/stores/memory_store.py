"""A store of job records in memory, by the rules of the one in Redis: for tests and benchmarks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from qcrd.errors import Conflict, NotFound
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


class MemoryJobStore(JobListing):
    """Keeps records as JSON, as Redis does, so that both accept the same ones."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.now = clock
        self._records: dict[str, str] = {}
        self._unreadable: dict[str, str] = {}
        self._lock = threading.RLock()

    def create(self, job: Job) -> None:
        with self._lock:
            if job.id in self._records:
                raise Conflict(f"job {job.id} exists already")
            self._records[job.id] = job.model_dump_json()

    def get(self, job_id: str) -> Job:
        with self._lock:
            if job_id not in self._records:
                raise make_not_found_error(job_id)
            return parse_job(job_id, self._records[job_id])

    def update(self, job_id: str, change: JobChange) -> Job:
        with self._lock:
            before = self.get(job_id)
            after = change(before)
            if after.running_limit is not None:  # to count them reads all jobs
                running = len(self._list_index(redis_keys.running_jobs_key(after.owner)))
                check_running_limit(before, after, running)
            self._records[job_id] = after.model_dump_json()
            return after

    def delete(self, job_id: str) -> None:
        with self._lock:
            self._records.pop(job_id, None)

    def list_waiting(self, task: str, limit: int, *, start: int = 0) -> list[Job]:
        return self._list_index(redis_keys.waiting_jobs_key(task))[start : start + limit]

    def queue_position(self, task: str, job_id: str) -> int | None:
        waiting_ids = [job.id for job in self._list_index(redis_keys.waiting_jobs_key(task))]
        return waiting_ids.index(job_id) if job_id in waiting_ids else None

    def queue_length(self, task: str) -> int:
        return len(self._list_index(redis_keys.waiting_jobs_key(task)))

    def list_held(self, task: str) -> list[Job]:
        return self._list_index(redis_keys.held_jobs_key(task))

    def count_held(self, task: str) -> int:
        return len(self._list_index(redis_keys.held_jobs_key(task)))

    def count_by_status(self) -> dict[JobStatus, int]:
        return {
            status: len(self._list_index(redis_keys.jobs_by_status_key(status)))
            for status in JobStatus
        }

    def _list_index(self, name: str) -> list[Job]:
        """The jobs in this sorted set, the highest score first."""
        with self._lock:
            jobs = parse_readable_jobs(self._records, self._unreadable.setdefault)
        scored = [
            (index_scores(job)[name], job.id, job) for job in jobs if name in index_scores(job)
        ]
        return [job for *_, job in sorted(scored, key=lambda entry: entry[:2], reverse=True)]

    def list_unreadable(self, *, active: bool = False) -> dict[str, str]:
        """Of one that cannot be read, memory knows no index: all of them count as active."""
        with self._lock:
            self._list_index(redis_keys.JOBS)  # notes them
            for job_id in list(self._unreadable):
                if is_readable(self, job_id):
                    del self._unreadable[job_id]
            return dict(self._unreadable)

    def find_place(self, job_id: str) -> tuple[float, str] | None:
        places = ((job.created_at, job.id) for job in self._list_index(redis_keys.JOBS))
        return next((place for place in places if place[1] == job_id), None)

    def list_older(self, place: tuple[float, str] | None, limit: int) -> Sequence[Job]:
        jobs = self._list_index(redis_keys.JOBS)
        return [job for job in jobs if place is None or (job.created_at, job.id) < place][:limit]

    def iter_active(self) -> Iterator[Job]:
        for job in self._list_index(redis_keys.ACTIVE_JOBS):
            try:
                current = self.get(job.id)
            except NotFound:
                continue
            if not current.concluded:
                yield current
