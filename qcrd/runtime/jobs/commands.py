"""Jobs, and the verbs by which they change: `move` is the one door between states.

A worker claims a job and gets a lease with a fencing token. Everything it writes carries the token,
and only the newest one is accepted. Each verb is one compare-and-set of the job's record.
"""

from __future__ import annotations

import time
from typing import Any

from qcrd.errors import Conflict, NotFound
from qcrd.records.job import Job, JobStatus, Lease, Stage
from qcrd.runtime.jobs.state_machine import (
    LEASE_TTL,
    MAX_ATTEMPTS,
    STAGE_TASKS,
    attempts_exhausted,
    check_lease,
    lease_expired,
    transition,
    with_changes,
    with_stage_time,
)
from qcrd.runtime.jobs.store import JobStore


def transition_job(
    jobs: JobStore, job_id: str, target: JobStatus, *, token: int | None = None, **changes: Any
) -> Job:
    """The one door between states. `Conflict` for a move that `NEXT` does not have.

    With `token` the caller is the job's worker: `LeaseLost` if it is that no more. Without, it is
    somebody from outside, and a move to a final state takes the job out of its worker's hands.
    """
    now = time.time()

    def change(job: Job) -> Job:
        if token is not None:
            check_lease(job, token)
        return transition(job, target, now, changes)

    return jobs.update(job_id, change)


def _is_claimable(job: Job, stage: Stage) -> bool:
    if job.status not in (JobStatus.QUEUED, JobStatus.RUNNING):
        return False
    return STAGE_TASKS[job.stage or Stage.ASSEMBLING] == STAGE_TASKS[stage]


def claim_job(
    jobs: JobStore, job_id: str, owner: str, *, stage: Stage, now: float, ttl: float = LEASE_TTL
) -> Job | None:
    """The job, `running` and held by a new lease; None when there is nothing to do here.

    That is so when somebody else holds it, when it is over, paused or deleted, and when it has
    gone on to another task's stage: a message delivered twice ends here. A predecessor that fell
    silent counts as an attempt; when it was the last one the job comes back `failed`, unheld.
    `Conflict` (code `running_limit`) while its owner has as many running jobs as it may.
    """

    def change(job: Job) -> Job:
        silent = lease_expired(job, now)
        if not _is_claimable(job, stage) or (job.lease.owner and not silent):
            raise Conflict(f"job {job.id} cannot be claimed")
        if silent and job.attempt + 1 >= MAX_ATTEMPTS:
            return attempts_exhausted(with_changes(job, lease=Lease(token=job.lease.token)), now)
        lease = Lease(token=job.lease.token + 1, owner=owner, until=now + ttl, counted=now)
        started = (
            job if job.status is JobStatus.RUNNING else transition(job, JobStatus.RUNNING, now, {})
        )
        return with_changes(started, stage=stage, attempt=job.attempt + silent, lease=lease)

    try:
        return jobs.update(job_id, change)
    except Conflict as error:
        if error.code == "running_limit":
            raise
        return None
    except NotFound:
        return None


def renew_lease(jobs: JobStore, job_id: str, token: int, now: float, ttl: float = LEASE_TTL) -> Job:
    """Extend the lease to `now + ttl`. `LeaseLost` when it is no longer this one."""

    def change(job: Job) -> Job:
        check_lease(job, token)
        lease = job.lease.model_copy(update={"until": now + ttl})
        return with_stage_time(with_changes(job, lease=lease), now)

    return jobs.update(job_id, change)


def update_job(jobs: JobStore, job_id: str, token: int, **changes: Any) -> Job:
    """A worker's write. `LeaseLost` when another one holds the job, or it is over.

    A change of `stage` ends the time of the stage before. Status has its own door, `move`.
    """
    now = time.time()
    if "status" in changes:
        raise TypeError("the status changes through `move` alone")

    def change(job: Job) -> Job:
        check_lease(job, token)
        return with_changes(with_stage_time(job, now) if "stage" in changes else job, **changes)

    return jobs.update(job_id, change)
