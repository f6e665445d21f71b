"""Re-enqueue jobs whose lease expired or whose queue message was lost."""

from __future__ import annotations

from collections import Counter

from qcrd.errors import Conflict, NotFound
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.runtime.jobs.queue import JobQueue
from qcrd.runtime.jobs.state_machine import get_task, is_waiting, lease_expired, with_changes
from qcrd.runtime.jobs.store import JobStore

RESEND_SECONDS = 300.0
"""Seconds after which an unclaimed job's message is sent again. If the first one is still queued,
the claim makes the duplicate harmless."""


def reap_jobs(
    jobs: JobStore, queue: JobQueue, now: float, *, resend_after: float = RESEND_SECONDS
) -> list[str]:
    """Re-enqueue overdue jobs and return their ids. Any number of reapers may run at once.

    A job with an expired lease is overdue at once; the next claim counts the lost attempt. A job
    that only waits is not sent again while its queue has a message for every claimable job: with
    the workers away for days the queue would grow without end.
    """
    sent: list[str] = []
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
        is_new = job.lease.owner and _last_due(job) <= job.lease.until
        if not is_new and queued[task] >= claimable[task]:
            continue
        if _claim_resend(jobs, job.id, now, resend_after):
            queue.send(stages[task], job.id)
            queued[task] += 1
            sent.append(job.id)
    return sent


def _is_claimable(job: Job, now: float) -> bool:
    return is_waiting(job) or (
        job.status in (JobStatus.QUEUED, JobStatus.RUNNING) and lease_expired(job, now)
    )


def _last_due(job: Job) -> float:
    """When its message was last sent, or was to be."""
    return max(job.created_at, job.sent_at or 0.0)


def _is_overdue(job: Job, now: float, resend_after: float) -> bool:
    if not _is_claimable(job, now):
        return False
    due = _last_due(job)
    return now - due > resend_after or (bool(job.lease.owner) and due <= job.lease.until)


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
