"""The job's state machine: its transitions, and the changes of its lease, as pure functions.

`TRANSITIONS` is the whole state machine. Functions here take a job and return the changed one;
`commands` applies them to the stored record.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from qcrd.errors import Conflict, LeaseLost
from qcrd.records.job import Job, JobFailure, JobStatus, Lease, Stage
from qcrd.records.specs.spec import Priority
from qcrd.runtime import redis_keys

TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = MappingProxyType(
    {
        JobStatus.VALIDATING: frozenset({JobStatus.QUEUED, JobStatus.FAILED, JobStatus.CANCELLED}),
        JobStatus.QUEUED: frozenset(
            {JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.FAILED, JobStatus.CANCELLED}
        ),
        JobStatus.RUNNING: frozenset(
            {
                JobStatus.QUEUED,  # by its worker, when it waits for another job
                JobStatus.PAUSED,
                JobStatus.SUCCEEDED,
                JobStatus.FAILED,
                JobStatus.CANCELLED,
            }
        ),
        JobStatus.PAUSED: frozenset(
            {JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.FAILED, JobStatus.CANCELLED}
        ),
        JobStatus.SUCCEEDED: frozenset(),
        JobStatus.FAILED: frozenset(),
        JobStatus.CANCELLED: frozenset(),
    }
)
TERMINAL = frozenset(status for status, following in TRANSITIONS.items() if not following)

MAX_ATTEMPTS = 3
"""Attempts a job gets; a dead worker or a crash ends one, waiting for an outage does not."""
LEASE_TTL = 45.0
"""Seconds a lease outlives its last renewal: four heartbeats of 10 s missed."""
REVOKED = 0.0
"""`Lease.until` of a lease that the reaper has ended."""
LATEST_START_SECONDS = 60.0
"""The latest that a job which does not back off may be put off, as after a crash."""

STAGE_TASKS: Mapping[Stage, str] = MappingProxyType(
    {
        Stage.ASSEMBLING: "assemble",
        Stage.TRAINING: "train",
        Stage.EVALUATING: "train",
        Stage.PUBLISHING: "train",
    }
)
"""The Celery task of each stage; its queue has the same name."""

PRIORITY_SCORES: Mapping[Priority, float] = MappingProxyType(
    {Priority.LOW: 0.0, Priority.NORMAL: 1e11, Priority.HIGH: 2e11}
)
"""Offsets of the queue score in seconds: larger than any time stamp, and small enough that a double
still resolves milliseconds."""


def get_task(job: Job) -> str:
    """The task of the job's stage, or of its first stage."""
    return STAGE_TASKS[job.stage or Stage.ASSEMBLING]


def is_waiting(job: Job) -> bool:
    """Whether a worker could claim `job`: no lease, and neither paused nor finished."""
    return job.status in (JobStatus.QUEUED, JobStatus.RUNNING) and not job.lease.owner


def index_scores(job: Job) -> dict[str, float]:
    """The sorted sets that must contain `job`, with its score in each."""
    score = job.created_at
    scores = {redis_keys.JOBS: score, redis_keys.jobs_by_status_key(job.status): score}
    if not job.concluded:
        scores[redis_keys.ACTIVE_JOBS] = score
    if job.status is JobStatus.RUNNING:
        scores[redis_keys.running_jobs_key(job.owner)] = score
    if is_waiting(job):
        scores[redis_keys.waiting_jobs_key(get_task(job))] = (
            PRIORITY_SCORES[job.spec.priority] - score
        )
    if job.lease.owner:
        scores[redis_keys.held_jobs_key(get_task(job))] = float(job.lease.token)
    return scores


def check_running_limit(before: Job, after: Job, running: int) -> None:
    """`Conflict` when `after` would start running while its owner, with `running` other running
    jobs, is at its limit."""
    starts_running = after.status is JobStatus.RUNNING and before.status is not JobStatus.RUNNING
    if starts_running and after.running_limit is not None and running >= after.running_limit:
        raise Conflict(
            f"{after.owner} has {running} running jobs already, which is the limit of its key",
            code="running_limit",
        )


def with_changes(job: Job, **changes: Any) -> Job:
    """`job` with `changes`, validated; `model_copy` would accept any name and value."""
    if unknown := changes.keys() - Job.model_fields.keys():
        raise TypeError(f"a job has no {', '.join(sorted(unknown))}")
    return Job.model_validate(dict(job) | changes)


def with_waiting(job: Job, changes: Mapping[str, Any], now: float) -> Job:
    """`job` with `changes`; one of `waiting` keeps the time since when, or sets it, or ends it."""
    if "waiting" not in changes:
        return with_changes(job, **changes)
    since = None if changes["waiting"] is None else (job.waiting_since or now)
    return with_changes(job, **changes, waiting_since=since)


def with_stage_time(job: Job, now: float) -> Job:
    """`job` with the holder's time up to `now` added to the seconds of its current stage. Its time
    ends with its lease, however far the clock has gone since."""
    if not job.lease.owner or job.stage is None:
        return job
    elapsed = max(0.0, min(now, job.lease.until) - job.lease.counted)
    seconds = {**job.seconds, job.stage.value: job.seconds.get(job.stage.value, 0.0) + elapsed}
    gpu_seconds = job.usage.gpu_seconds + elapsed * job.gpus
    return with_changes(
        job,
        seconds=seconds,
        usage=job.usage.model_copy(update={"gpu_seconds": gpu_seconds}),
        lease=job.lease.model_copy(update={"counted": now}),
    )


def release_lease(job: Job, now: float) -> Job:
    """`job` without a lease owner. The token is kept, so that the next one is larger."""
    return with_changes(with_stage_time(job, now), lease=Lease(token=job.lease.token), gpus=0)


def transition(job: Job, target: JobStatus, now: float, changes: Mapping[str, Any]) -> Job:
    """`job` in status `target`. A final status also clears the lease, `waiting` and `backoffs`."""
    if target not in TRANSITIONS[job.status]:
        raise Conflict(f"job {job.id} has the status {job.status} and cannot become {target}")
    if target not in TERMINAL:
        return with_changes(job, status=target, **{"paused_because": None, **changes})
    finished = with_changes(
        release_lease(job, now),
        status=target,
        finished_at=now,
        waiting=None,
        waiting_since=None,
        backoffs=0,
    )
    return with_changes(finished, **changes)


def check_lease(job: Job, token: int) -> None:
    """`LeaseLost` unless `token` is the current lease of `job`."""
    if not job.lease.owner or job.lease.token != token:
        raise LeaseLost(f"job {job.id} is {job.status} and no longer leased with token {token}")


def is_lease_revoked(job: Job) -> bool:
    """Whether the reaper has ended the job's lease, so that another worker may claim it. A clock
    that has passed `until` says nothing: it may have been set."""
    return bool(job.lease.owner) and job.lease.until <= REVOKED


def revoke_lease(job: Job) -> Job:
    """`job`, free to be claimed; a holder that lives after all revives its lease by renewing it."""
    return with_changes(job, lease=job.lease.model_copy(update={"until": REVOKED}))


def is_due(job: Job, now: float) -> bool:
    """Whether a waiting job need not wait for the moment that it was put off to. A moment farther
    away than anything puts it off to was written before the clock went back."""
    delay = (job.sent_at or 0.0) - now
    return delay <= 0.0 or (not job.backoffs and delay > LATEST_START_SECONDS)


def attempts_exhausted(job: Job, now: float, reason: str = "its worker's lease expired") -> Job:
    """`job`, failed after its last attempt."""
    failure = JobFailure(
        message=f"gave up after {MAX_ATTEMPTS} attempts; at the last one {reason}",
        code="attempts_exhausted",
    )
    return transition(job, JobStatus.FAILED, now, {"attempt": job.attempt + 1, "failure": failure})
