"""The records of ended jobs in the object store, and their list, newest first."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from qcrd.errors import QcrdError
from qcrd.records.job import Job
from qcrd.runtime import archive_keys, keys
from qcrd.runtime.jobs.store import make_not_found_error
from qcrd.runtime.storage.store import (
    Store,
    find_readable_records,
    find_record,
    note_stray_object,
    write_record,
)

log = logging.getLogger(__name__)


class JobPlace(NamedTuple):
    """Where a job is in the list of all jobs, which is sorted by it, the largest first."""

    created_at: float
    job_id: str


class JobArchive:
    def __init__(self, store: Store) -> None:
        self._store = store

    def save(self, job: Job) -> None:
        """Write the record of an ended job, and then what makes it one of their list. `NotFound`
        when the job is being deleted, or was: nothing is left of either then."""
        write_record(self._store, archive_keys.job_record_key(job.id), job)
        self._store.put(archive_keys.ended_job_key(job.id, job.created_at), b"")
        # After the writes: a deletion that is marked only now removes them itself.
        if is_marked_deleted(self._store, job.id):
            self.delete(job)
            raise make_not_found_error(job.id)

    def mark_deleted(self, job_id: str) -> None:
        """Before anything of the job is deleted: whoever is about to save it undoes that."""
        self._store.put(archive_keys.deleted_job_key(job_id), b"")

    def find(self, job_id: str) -> Job | None:
        """The record of an ended job, None for any other. `UnreadableRecord`."""
        return find_record(self._store, archive_keys.job_record_key(job_id), Job)

    def list_places(self, than: JobPlace | None, limit: int) -> list[JobPlace]:
        """The places of at most `limit` ended jobs that are older than place `than`."""
        after = "" if than is None else archive_keys.ended_job_key(than.job_id, than.created_at)
        places: list[JobPlace] = []
        # No places means no more jobs, so a page of strays is read past.
        while len(places) < limit and (
            page := self._store.list(archive_keys.ENDED, after=after, limit=limit - len(places))
        ):
            after = page[-1]
            for key in page:
                if place := archive_keys.parse_ended_job_key(key):
                    places.append(JobPlace(*place))
                else:
                    note_stray_object(self._store, key)
        return places

    def read_many(self, job_ids: Sequence[str]) -> list[Job]:
        """Those that can be read, in this order."""
        wanted = [archive_keys.job_record_key(job_id) for job_id in job_ids]
        found = find_readable_records(self._store, wanted, Job)
        return [job for job in found if job is not None]

    def list_ids(self) -> list[str]:
        """The ids of all jobs that the store has anything of."""
        found = (key.split("/")[1] for key in self._store.list(archive_keys.JOBS))
        return [job_id for job_id in dict.fromkeys(found) if keys.ID_PATTERN.fullmatch(job_id)]

    def delete(self, job: Job) -> None:
        """What makes it one of the list first. Idempotent."""
        self._store.delete(archive_keys.ended_job_key(job.id, job.created_at))
        self._store.delete(archive_keys.job_record_key(job.id))


def is_marked_deleted(store: Store, job_id: str) -> bool:
    return bool(store.list(archive_keys.deleted_job_key(job_id), limit=1))


def save_snapshot(store: Store, job: Job) -> None:
    """Leave the record of a living job in the store, from which `qcrd rebuild` makes jobs when
    Redis is lost. It is no harm where that fails: an earlier snapshot or the spec is there."""
    key = archive_keys.job_snapshot_key(job.id)
    try:
        write_record(store, key, job)
        if is_marked_deleted(store, job.id):
            store.delete(key)
    except QcrdError as error:
        log.warning("no snapshot of the job: %s", error, extra={"data": {"job_id": job.id}})
