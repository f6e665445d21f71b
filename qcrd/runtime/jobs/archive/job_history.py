"""All jobs: those in Redis, and the ended ones that only the object store still has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qcrd.errors import Conflict, NotFound
from qcrd.records.job import Job, JobStatus
from qcrd.runtime.jobs.archive.job_archive import JobArchive, JobPlace
from qcrd.runtime.jobs.store import JobChange, JobListing, JobStore, make_not_found_error


class JobHistory(JobListing):
    """A job store that answers for archived jobs too; Redis goes first where both have one."""

    def __init__(self, live: JobStore, archive: JobArchive) -> None:
        self._live = live
        self._archive = archive

    def now(self) -> float:
        return self._live.now()

    def create(self, job: Job) -> None:
        if self._archive.find(job.id) is not None:
            raise Conflict(f"job {job.id} exists already")
        self._live.create(job)

    def get(self, job_id: str) -> Job:
        try:
            return self._live.get(job_id)
        except NotFound:
            return self._get_archived(job_id)

    def _get_archived(self, job_id: str) -> Job:
        job = self._archive.find(job_id)
        if job is None:
            raise make_not_found_error(job_id)
        return job

    def update(self, job_id: str, change: JobChange) -> Job:
        """Of an archived job the record in the store changes, without compare-and-set: nothing but
        its usage ever does, and only one sweeper tells it."""
        try:
            return self._live.update(job_id, change)
        except NotFound:
            before = self._get_archived(job_id)
            after = change(before)
            if after is not before:
                self._archive.save(after)
            return after

    def delete(self, job_id: str) -> None:
        try:
            job = self.get(job_id)
        except NotFound:
            return
        self._archive.delete(job)
        self._live.delete(job_id)

    def find_place(self, job_id: str) -> tuple[float, str] | None:
        place = self._live.find_place(job_id)
        if place is None and (job := self._archive.find(job_id)) is not None:
            place = (job.created_at, job.id)
        return place

    def list_older(self, place: tuple[float, str] | None, limit: int) -> Sequence[Job]:
        jobs: Sequence[Job] = ()
        while len(jobs) < limit:
            places, found = self._read_older(place, limit - len(jobs))
            jobs = [*jobs, *found]
            if not places:
                break
            place = places[-1]
        return jobs

    def _read_older(
        self, place: tuple[float, str] | None, limit: int
    ) -> tuple[Sequence[JobPlace], Sequence[Job]]:
        """The next `limit` places, and the jobs that can be read there."""
        jobs = self._live.list_older(place, limit)
        live = {JobPlace(job.created_at, job.id): job for job in jobs}
        live_ids = {job.id for job in live.values()}
        archived = {
            found
            for found in self._archive.list_places(place and JobPlace(*place), limit)
            if found.job_id not in live_ids
        }
        places = sorted({*live, *archived}, reverse=True)[:limit]
        read = self._archive.read_many([each.job_id for each in places if each in archived])
        by_id = {job.id: job for job in (*live.values(), *read)}
        return places, [by_id[each.job_id] for each in places if each.job_id in by_id]

    def iter_active(self) -> Iterator[Job]:
        return self._live.iter_active()

    def list_unreadable(self, *, active: bool = False) -> dict[str, str]:
        return self._live.list_unreadable(active=active)

    def list_waiting(self, task: str, limit: int, *, start: int = 0) -> Sequence[Job]:
        return self._live.list_waiting(task, limit, start=start)

    def queue_position(self, task: str, job_id: str) -> int | None:
        return self._live.queue_position(task, job_id)

    def queue_length(self, task: str) -> int:
        return self._live.queue_length(task)

    def list_held(self, task: str) -> Sequence[Job]:
        return self._live.list_held(task)

    def count_held(self, task: str) -> int:
        return self._live.count_held(task)

    def count_by_status(self) -> dict[JobStatus, int]:
        """Of the jobs in Redis."""
        return self._live.count_by_status()
