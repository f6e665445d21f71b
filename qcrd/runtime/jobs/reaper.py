"""Re-enqueue jobs whose lease expired or whose queue message was lost."""

from __future__ import annotations

from qcrd.errors import Conflict, NotFound
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.runtime.jobs.queue import JobQueue
from qcrd.runtime.jobs.state_machine import lease_expired, with_changes
from qcrd.runtime.jobs.store import JobStore

RESEND_SECONDS = 300.0
"""Seconds after which an unclaimed job's message is sent again. If the first one is still queued,
the claim makes the duplicate harmless."""


def reap_jobs(
    jobs: JobStore, queue: JobQueue, now: float, *, resend_after: float = RESEND_SECONDS
) -> list[str]:
    """Re-enqueue overdue jobs and return their ids. Any number of reapers may run at once.

    A job with an expired lease is overdue at once; the next claim counts the lost attempt.
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
    """Record the resend; False when another reaper did so first."""

    def change(job: Job) -> Job:
        if not _is_overdue(job, now, resend_after):
            raise Conflict(f"job {job.id} is not overdue")
        return with_changes(job, sent_at=now)

    try:
        jobs.update(job_id, change)
    except (Conflict, NotFound):
        return False
    return True
