"""Commands that change a stored job: claim, renew the lease, update, change the status.

A worker that claims a job gets a lease with a fencing token. Each of its writes carries the token,
and only the newest token is accepted. Each command is one compare-and-set of the job's record.
"""

from __future__ import annotations

from typing import Any

from qcrd.errors import Conflict, NotFound, UnreadableRecord
from qcrd.records.job import Job, JobStatus, Lease, Stage
from qcrd.runtime.jobs.state_machine import (
    LEASE_TTL,
    MAX_ATTEMPTS,
    STAGE_TASKS,
    attempts_exhausted,
    check_lease,
    is_lease_revoked,
    transition,
    with_changes,
    with_stage_time,
    with_waiting,
)
from qcrd.runtime.jobs.store import JobStore


def transition_job(
    jobs: JobStore, job_id: str, target: JobStatus, *, token: int | None = None, **changes: Any
) -> Job:
    """Change the job's status. `Conflict` for a transition that `TRANSITIONS` does not have.

    With `token` the caller is the job's worker: `LeaseLost` if its lease is not the current one.
    Without it, a transition to a final status also ends the worker's lease.
    """
    now = jobs.now()

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
    """Return the job, `running` under a new lease; None when it cannot be claimed.

    It cannot when another worker holds the lease, when it is finished, paused or deleted, or when
    its stage belongs to another task; so a duplicate message has no effect. A lease is held until
    the reaper revokes it. A revoked one counts as an attempt: if it was the last one, the job is
    returned `failed`, without a lease. `now` is the time by the store's clock.
    `Conflict` (code `running_limit`) while its owner is at its limit of running jobs.
    """

    def change(job: Job) -> Job:
        revoked = is_lease_revoked(job)
        if not _is_claimable(job, stage) or (job.lease.owner and not revoked):
            raise Conflict(f"job {job.id} cannot be claimed")
        if revoked and job.attempt + 1 >= MAX_ATTEMPTS:
            return attempts_exhausted(with_changes(job, lease=Lease(token=job.lease.token)), now)
        lease = Lease(token=job.lease.token + 1, owner=owner, until=now + ttl, counted=now)
        started = (
            job if job.status is JobStatus.RUNNING else transition(job, JobStatus.RUNNING, now, {})
        )
        return with_changes(started, stage=stage, attempt=job.attempt + revoked, lease=lease)

    try:
        return jobs.update(job_id, change)
    except Conflict as error:
        if error.code == "running_limit":
            raise
        return None
    except (NotFound, UnreadableRecord):
        return None  # the latter is of another release since it was found among those that wait


def renew_lease(jobs: JobStore, job_id: str, token: int, now: float, ttl: float = LEASE_TTL) -> Job:
    """Extend the lease to `now + ttl` by the store's clock. `LeaseLost` when `token` is not the
    current lease."""

    def change(job: Job) -> Job:
        check_lease(job, token)
        timed = with_stage_time(job, now)
        return with_changes(timed, lease=timed.lease.model_copy(update={"until": now + ttl}))

    return jobs.update(job_id, change)


def update_job(jobs: JobStore, job_id: str, token: int, **changes: Any) -> Job:
    """Write a worker's `changes`. `LeaseLost` when another worker holds the job or it is finished.

    A change of `stage` closes the previous stage's time. The status changes by `transition_job`.
    """
    now = jobs.now()
    if "status" in changes:
        raise TypeError("the status changes through `transition_job` alone")

    def change(job: Job) -> Job:
        check_lease(job, token)
        timed = with_stage_time(job, now) if "stage" in changes else job
        return with_waiting(timed, changes, now)

    return jobs.update(job_id, change)
