"""Sends the messages of jobs that nobody works on any more, or that were lost on the way."""

from __future__ import annotations

from qcrd.errors import Conflict, NotFound
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.runtime.jobs.queue import JobQueue
from qcrd.runtime.jobs.state_machine import lease_expired, with_changes
from qcrd.runtime.jobs.store import JobStore

RESEND_SECONDS = 300.0
"""Seconds after which a message that nobody has taken is sent again. One that merely waits behind
others is then there twice, which a claim makes harmless."""


def reap_jobs(
    jobs: JobStore, queue: JobQueue, now: float, *, resend_after: float = RESEND_SECONDS
) -> list[str]:
    """Re-send what is overdue, and return those jobs' ids. Any number of reapers may run at once.

    A job whose worker fell silent is due at once; counting that attempt is the next claim's part.
    """
    sent = []
    for job in jobs.iter_active():
        if _is_overdue(job, now, resend_after) and _claim_resend(jobs, job.id, now, resend_after):
            queue.send(job.stage or Stage.ASSEMBLING, job.id)
            sent.append(job.id)
    return sent


def _is_overdue(job: Job, now: float, resend_after: float) -> bool:
    if job.status not in (JobStatus.QUEUED, JobStatus.RUNNING):
        return False
    due = max(job.created_at, job.sent_at or 0.0)
    if job.lease.owner:
        return lease_expired(job, now) and (due <= job.lease.until or now - due > resend_after)
    return now - due > resend_after


def _claim_resend(jobs: JobStore, job_id: str, now: float, resend_after: float) -> bool:
    """Whether this reaper is the one that sends it."""

    def change(job: Job) -> Job:
        if not _is_overdue(job, now, resend_after):
            raise Conflict(f"job {job.id} is not overdue")
        return with_changes(job, sent_at=now)

    try:
        jobs.update(job_id, change)
    except (Conflict, NotFound):
        return False
    return True
