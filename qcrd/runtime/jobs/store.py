"""Job records: what a store of them does, and what all stores share. Rules: `state_machine`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from qcrd.errors import Conflict, NotFound, UnreadableRecord
from qcrd.records.base import parse_stored_record
from qcrd.records.job import Job, JobStatus

MAX_NAMED = 5
"""Jobs that an error names."""

JobChange = Callable[[Job], Job]


def make_not_found_error(job_id: str, param: str | None = None) -> NotFound:
    return NotFound(f"there is no job {job_id}", param=param)


class JobRecords(Protocol):
    """What reads one record raises `UnreadableRecord` for one that this release cannot read. What
    reads many leaves it out, so that it harms no other job, and `list_unreadable` names it."""

    def create(self, job: Job) -> None:
        """`Conflict` when the id is taken."""

    def get(self, job_id: str) -> Job:
        """`NotFound` when there is none."""

    def update(self, job_id: str, change: JobChange) -> Job:
        """Apply `change` to the newest record, atomically, and return the result.

        `change` is pure and may be called several times; its exceptions are propagated, and
        returning its argument itself writes nothing. `NotFound` when there is no such job, and
        `Conflict` (code `running_limit`) when its owner is at its limit of running jobs. Fields
        that this release does not know are kept.
        """

    def delete(self, job_id: str) -> None:
        """Idempotent."""

    def list(self, after: str | None, limit: int) -> list[Job]:
        """At most `limit` jobs, newest first, that are older than job `after`.

        `NotFound` (param `after`) for an unknown one.
        """

    def find_place(self, job_id: str) -> tuple[float, str] | None:
        """Creation time and id, by which jobs are listed; None for an unknown job."""

    def list_older(self, place: tuple[float, str] | None, limit: int) -> Sequence[Job]:
        """At most `limit` jobs, newest first, whose place in the list is before `place`."""

    def iter_active(self) -> Iterator[Job]:
        """The jobs that are not `concluded`, newest first. Their ids are read at the first item,
        each record when its page is read."""

    def list_unreadable(self, *, active: bool = False) -> dict[str, str]:
        """Why a job was left out, by its id, for those that still cannot be read. With `active`
        all of those that nobody is known to have concluded: what they need is not known."""


class WaitingJobs(Protocol):
    """The jobs that wait for a worker, by task, in the order in which they are claimed, and how
    many there are of others."""

    def list_waiting(self, task: str, limit: int, *, start: int = 0) -> Sequence[Job]:
        """At most `limit` jobs, the next one first, skipping the first `start`."""

    def queue_position(self, task: str, job_id: str) -> int | None:
        """How many jobs are before this one; None when it does not wait for `task`."""

    def queue_length(self, task: str) -> int: ...

    def list_held(self, task: str) -> Sequence[Job]:
        """The jobs that a worker of `task` holds."""

    def count_held(self, task: str) -> int:
        """The number of jobs that a worker of `task` holds."""

    def count_by_status(self) -> dict[JobStatus, int]:
        """The number of jobs in each status."""


class JobStore(JobRecords, WaitingJobs, Protocol):
    def now(self) -> float:
        """Seconds since the epoch by the store's clock, which all who use the store share. Every
        time by which a job is judged is one of it."""


class JobListing(ABC):
    """The list of a store's jobs by the id of the one before it."""

    @abstractmethod
    def find_place(self, job_id: str) -> tuple[float, str] | None: ...

    @abstractmethod
    def list_older(self, place: tuple[float, str] | None, limit: int) -> Sequence[Job]: ...

    def list(self, after: str | None, limit: int) -> list[Job]:
        place = None
        if after is not None and (place := self.find_place(after)) is None:
            raise make_not_found_error(after, "after")
        return [*self.list_older(place, limit)]


def parse_job(job_id: str, body: str) -> Job:
    """`UnreadableRecord`, also for the record of another job: by its id it would be changed in
    place of that one."""
    job = parse_stored_record(Job, body, f"job {job_id}")
    if job.id != job_id:
        raise UnreadableRecord(f"job {job_id} cannot be read: its record has another `id`")
    return job


def parse_readable_jobs(
    bodies: Mapping[str, str], note_unreadable: Callable[[str, str], object]
) -> list[Job]:
    """The jobs in `bodies`, by their ids, that can be read; the others are noted."""
    jobs = []
    for job_id, body in bodies.items():
        try:
            jobs.append(parse_job(job_id, body))
        except UnreadableRecord as error:
            note_unreadable(job_id, error.message)
    return jobs


def check_active_readable(jobs: JobRecords, what: str) -> None:
    """`Conflict` while a job that is not over cannot be read: it may need `what`, which somebody is
    about to delete."""
    if unreadable := jobs.list_unreadable(active=True):
        ids = sorted(unreadable)
        more = f" and {len(ids) - MAX_NAMED} more" if len(ids) > MAX_NAMED else ""
        raise Conflict(
            f"{what} stays: this release cannot read job {', '.join(ids[:MAX_NAMED])}{more}, which "
            "may need it. Delete it with a release that reads the job, or see docs/upgrade.md for "
            "one that is damaged; GET /ready says what is wrong",
            code="unreadable_jobs",
        )


def is_readable(jobs: JobRecords, job_id: str) -> bool:
    """Whether the job can be read now, or is gone."""
    try:
        jobs.get(job_id)
    except UnreadableRecord:
        return False
    except NotFound:
        return True
    return True
