"""Re-enqueue jobs whose lease expired or whose queue message was lost."""

from __future__ import annotations

from dataclasses import dataclass

from qcrd.errors import Conflict, NotFound
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.runtime.jobs.queue import JobQueue
from qcrd.runtime.jobs.state_machine import lease_expired, with_changes
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.event_log import EventLog

RESEND_SECONDS = 300.0
"""Seconds after which an unclaimed job's message is sent again. If the first one is still queued,
the claim makes the duplicate harmless."""


@dataclass(frozen=True, slots=True)
class ReapedJob:
    """A job that was re-enqueued; `reason` is for the log."""

    job_id: str
    reason: str


def reap_jobs(
    jobs: JobStore, queue: JobQueue, now: float, *, resend_after: float = RESEND_SECONDS
) -> list[ReapedJob]:
    """Re-enqueue overdue jobs and return them. Any number of reapers may run at once.

    A job with an expired lease is overdue at once; the next claim counts the lost attempt.
    """
    reaped = []
    for job in jobs.iter_active():
        if _is_overdue(job, now, resend_after) and _claim_resend(jobs, job.id, now, resend_after):
            queue.send(job.stage or Stage.ASSEMBLING, job.id)
            reaped.append(ReapedJob(job.id, _describe_delay(job, now)))
    return reaped


def alarm_unreadable(jobs: JobStore, events: EventLog) -> dict[str, str]:
    """Say in the log of each job that cannot be read why, once; the reasons by job id.

    The job is left for a release that can read it, such as one that runs beside this one.
    """
    unreadable = jobs.list_unreadable()
    for job_id, reason in unreadable.items():
        events.append(job_id, f"set aside: {reason}", level="error", once="unreadable")
    return unreadable


def _is_overdue(job: Job, now: float, resend_after: float) -> bool:
    if job.status not in (JobStatus.QUEUED, JobStatus.RUNNING):
        return False
    due = _due_at(job)
    if job.lease.owner:
        return lease_expired(job, now) and (due <= job.lease.until or now - due > resend_after)
    return now - due > resend_after


def _due_at(job: Job) -> float:
    """When the job's last message was sent, in seconds since the epoch."""
    return max(job.created_at, job.sent_at or 0.0)


def _describe_delay(job: Job, now: float) -> str:
    """Why the job is overdue."""
    if job.lease.owner:
        return f"lease expired {now - job.lease.until:.0f} s ago"
    return f"no worker claimed it within {now - _due_at(job):.0f} s of its message"


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
