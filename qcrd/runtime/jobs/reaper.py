"""Sends the messages of jobs that nobody works on any more, or that were lost on the way."""

from __future__ import annotations

from collections.abc import Iterator

from qcrd.errors import Conflict, NotFound
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.runtime.jobs.queue import Queue
from qcrd.runtime.jobs.state_machine import changed, lapsed
from qcrd.runtime.jobs.store import JobStore

PATIENCE = 300.0
"""Seconds after which a message that nobody has taken is sent again. One that merely waits behind
others is then there twice, which a claim makes harmless."""


def reap(jobs: JobStore, queue: Queue, now: float, *, patience: float = PATIENCE) -> list[str]:
    """Re-send what is overdue, and return those jobs' ids. Any number of reapers may run at once.

    A job whose worker fell silent is due at once; counting that attempt is the next claim's part.
    """
    sent = []
    for job in active(jobs):
        if _overdue(job, now, patience) and _take(jobs, job.id, now, patience):
            queue.send(job.stage or Stage.ASSEMBLING, job.id)
            sent.append(job.id)
    return sent


def active(jobs: JobStore) -> Iterator[Job]:
    """The jobs that are not concluded, newest first."""
    return jobs.active()


def _overdue(job: Job, now: float, patience: float) -> bool:
    if job.status not in (JobStatus.QUEUED, JobStatus.RUNNING):
        return False
    due = max(job.created_at, job.sent_at or 0.0)
    if job.lease.owner:
        return lapsed(job, now) and (due <= job.lease.until or now - due > patience)
    return now - due > patience


def _take(jobs: JobStore, job_id: str, now: float, patience: float) -> bool:
    """Whether this reaper is the one that sends it."""

    def change(job: Job) -> Job:
        if not _overdue(job, now, patience):
            raise Conflict(f"job {job.id} is not overdue")
        return changed(job, sent_at=now)

    try:
        jobs.update(job_id, change)
    except (Conflict, NotFound):
        return False
    return True
