"""What a sweep knows of jobs. Nothing is taken for ended without a record that says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qcrd.errors import NotFound, UnreadableRecord
from qcrd.records.job import Job
from qcrd.runtime import archive_keys, keys
from qcrd.runtime.jobs.state_machine import TERMINAL
from qcrd.runtime.jobs.store import JobRecords
from qcrd.runtime.retention.removal import describe_age
from qcrd.runtime.storage.inventory import InventoriedStore, StoredObject


class KnownJobs:
    """The jobs that the store has anything of, and the records of those that are asked for."""

    def __init__(self, jobs: JobRecords, store: InventoriedStore, now: float) -> None:
        self._jobs = jobs
        self.now = now
        self._ended: dict[str, Job | None] = {}
        self.objects: Mapping[str, list[StoredObject]] = _group_by_job(store)
        """Objects under `jobs/<id>/`, by job id. A job without any was deleted: its spec is there
        from before its creation to its deletion."""

    def is_deleted(self, job_id: str) -> bool:
        return job_id not in self.objects and self._is_gone(job_id)

    def _is_gone(self, job_id: str) -> bool:
        try:
            self._jobs.get(job_id)
        except NotFound:
            return True
        except UnreadableRecord:
            return False
        return False

    def find_ended(self, job_id: str) -> Job | None:
        """The record of a job that is known to have ended."""
        if job_id not in self._ended:
            self._ended[job_id] = self._read_ended(job_id)
        return self._ended[job_id]

    def _read_ended(self, job_id: str) -> Job | None:
        try:
            job = self._jobs.get(job_id)
        except (NotFound, UnreadableRecord):
            return None
        return job if job.status in TERMINAL and job.finished_at is not None else None

    def list_living(self, make_id: Callable[[str], str]) -> set[str]:
        """What `make_id` makes of the ids of the jobs that are not known to have ended."""
        return {make_id(job_id) for job_id in self.objects if self.find_ended(job_id) is None}

    def find_over(self, job_id: str, seconds: float) -> str | None:
        """Since when the job has been over, in words, if that is longer than `seconds`."""
        job = self.find_ended(job_id)
        if job is None or job.finished_at is None or self.now - job.finished_at <= seconds:
            return None
        return f"its job {job.status} {describe_age(self.now - job.finished_at)} ago"


def _group_by_job(store: InventoriedStore) -> dict[str, list[StoredObject]]:
    found: dict[str, list[StoredObject]] = {}
    for each in store.list_objects(archive_keys.JOBS):
        job_id = each.key.split("/")[1]
        if keys.ID_PATTERN.fullmatch(job_id):
            found.setdefault(job_id, []).append(each)
    return found
