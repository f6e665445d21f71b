"""Re-enqueue jobs whose lease expired or whose queue message was lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from qcrd.errors import Conflict, NotFound
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.runtime.jobs.queue import JobQueue
from qcrd.runtime.jobs.state_machine import get_task, is_waiting, lease_expired, with_changes
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

    A job with an expired lease is overdue at once; the next claim counts the lost attempt. A job
    that only waits is not sent again while its queue has a message for every claimable job: with
    the workers away for days the queue would grow without end.
    """
    reaped: list[ReapedJob] = []
    claimable: Counter[str] = Counter()
    overdue: list[Job] = []
    for job in jobs.iter_active():
        if _is_claimable(job, now):
            claimable[get_task(job)] += 1
            if _is_overdue(job, now, resend_after):
                overdue.append(job)
    stages = {get_task(job): job.stage or Stage.ASSEMBLING for job in overdue}
    queued = {task: queue.count_messages(stage) for task, stage in stages.items()}
    for job in overdue:
        task = get_task(job)
        # The message of a lost lease is new: nothing has been sent since the worker took the job.
        is_new = job.lease.owner and _due_at(job) <= job.lease.until
        if not is_new and queued[task] >= claimable[task]:
            continue
        if _claim_resend(jobs, job.id, now, resend_after):
            queue.send(stages[task], job.id)
            queued[task] += 1
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


def _is_claimable(job: Job, now: float) -> bool:
    return is_waiting(job) or (
        job.status in (JobStatus.QUEUED, JobStatus.RUNNING) and lease_expired(job, now)
    )


def _is_overdue(job: Job, now: float, resend_after: float) -> bool:
    if not _is_claimable(job, now):
        return False
    due = _due_at(job)
    return now - due > resend_after or (bool(job.lease.owner) and due <= job.lease.until)


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
