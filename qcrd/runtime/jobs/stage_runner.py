"""Run one stage of a job: claim the job, renew its lease during the work, write the outcome.

Jobs are retried here and nowhere else; what the work raises decides (`stage_outcome`).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import TypeVar

from qcrd.errors import (
    LeaseLost,
    NotFound,
    Transient,
    UnreadableRecord,
)
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.runtime import telemetry
from qcrd.runtime.jobs.archive.job_archive import save_snapshot
from qcrd.runtime.jobs.dispatch import claim_next_job, wake_next_job
from qcrd.runtime.jobs.finalize import finalize
from qcrd.runtime.jobs.lease import LeaseHeartbeat
from qcrd.runtime.jobs.stage_context import (
    NextStage,
    StageContext,
    StageWork,
    WorkerDeps,
)
from qcrd.runtime.jobs.stage_outcome import (
    Crashed,
    GoesOn,
    Outcome,
    Paused,
    apply_outcome,
    describe_outcome,
    emit_outcome,
    run_work,
)
from qcrd.runtime.jobs.state_machine import (
    STAGE_TASKS,
    TERMINAL,
    check_lease,
)
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.counters import observe_stage_seconds
from qcrd.runtime.retrying import call_with_retries, compute_backoff

log = logging.getLogger(__name__)
T = TypeVar("T")

REDIS_BACKOFF_SECONDS = (0.5, 5.0)
"""The same while Redis is unavailable."""


def run_stage(deps: WorkerDeps, job_id: str, stage: Stage, work: StageWork) -> None:
    """Run `stage` of the first job in the queue for it; `job_id` is the job the message names.

    A job is run by one worker at a time, however often its message is delivered. Raises `Transient`
    only when Redis is unavailable while this process is shutting down.
    """
    with telemetry.log_context(job_id=job_id):
        job = _retry_while_unavailable(deps, lambda: claim_next_job(deps, job_id, stage))
        if job is None:
            log.info("no claimable job for stage %s", stage.value)
            deps.counters.increment("deliveries_refused", task=STAGE_TASKS[stage])
            return
    with telemetry.log_context(job_id=job.id, request_id=job.request_id):
        if job.status in TERMINAL:
            _retry_while_unavailable(deps, lambda: finalize(deps, job))
            _retry_while_unavailable(deps, lambda: wake_next_job(deps.jobs, deps.queue, job))
        else:
            _run_held(deps, job, stage, work)


def resume_stage(deps: WorkerDeps, job: Job, work: StageWork) -> None:
    """Run `work` under the lease that `job` has, whose worker is gone: of work that goes on without
    one. Whoever claims the job meanwhile makes this one lose the lease."""
    with telemetry.log_context(job_id=job.id, request_id=job.request_id):
        _run_held(deps, job, job.stage or Stage.ASSEMBLING, work)


def _run_held(deps: WorkerDeps, job: Job, stage: Stage, work: StageWork) -> None:
    log.info("stage %s started, attempt %d", stage.value, job.attempt + 1)
    heartbeat = LeaseHeartbeat(deps.jobs, job, heartbeat=deps.heartbeat, ttl=deps.ttl)
    with heartbeat:
        outcome = run_work(work, StageContext(deps, job, heartbeat))
    if not isinstance(outcome, GoesOn):
        _write_outcome(deps, job, outcome)
    log.info("stage %s finished: %s", stage.value, describe_outcome(outcome))


def _retry_while_unavailable(deps: WorkerDeps, call: Callable[[], T]) -> T:
    """Retry `call` while Redis is unavailable. The message is already acknowledged, so giving up
    would leave the job to the reaper."""

    def before_retry(error: Transient) -> None:
        if deps.is_stopping():
            raise error
        log.warning("Redis unavailable, retrying: %s", error)

    delays = (compute_backoff(retries, *REDIS_BACKOFF_SECONDS) for retries in itertools.count())
    return call_with_retries(call, delays, before_retry=before_retry)


def _write_outcome(deps: WorkerDeps, job: Job, outcome: Outcome) -> None:
    """Write the outcome, which releases the lease, then emit its event and queue what follows."""
    token, now = job.lease.token, _retry_while_unavailable(deps, deps.jobs.now)
    attempted: list[Job] = []

    def change(current: Job) -> Job:
        if current in attempted:
            return current  # it was written, but Redis's reply was lost
        check_lease(current, token)
        attempted.append(apply_outcome(current, outcome, now))
        return attempted[-1]

    try:
        after = _retry_while_unavailable(deps, lambda: deps.jobs.update(job.id, change))
    except (LeaseLost, NotFound, UnreadableRecord) as error:
        log.info("outcome not written: %s", error)
        if _retry_while_unavailable(deps, lambda: _was_taken_over(deps.jobs, job)):
            deps.counters.increment("lease_losses", stage=(job.stage or Stage.ASSEMBLING).value)
        return
    _update_counters(deps, after, outcome)
    if after.status in TERMINAL:
        _retry_while_unavailable(deps, lambda: finalize(deps, after))
    else:
        _retry_while_unavailable(deps, lambda: emit_outcome(deps.events, after, outcome))
    if isinstance(outcome, NextStage):
        save_snapshot(deps.store, after)
    if after.status in (JobStatus.QUEUED, JobStatus.RUNNING):
        delay = max(0.0, (after.sent_at or now) - now)
        stage = after.stage or Stage.ASSEMBLING
        _retry_while_unavailable(deps, lambda: deps.queue.send(stage, job.id, countdown=delay))
    if after.status is not JobStatus.RUNNING:
        _retry_while_unavailable(deps, lambda: wake_next_job(deps.jobs, deps.queue, after))


def _was_taken_over(job_store: JobStore, job: Job) -> bool:
    """Whether another worker has claimed the job; cancelling or deleting it is no takeover."""
    try:
        return job_store.get(job.id).lease.token != job.lease.token
    except (NotFound, UnreadableRecord):
        return False


def _update_counters(deps: WorkerDeps, job: Job, outcome: Outcome) -> None:
    if job.status in TERMINAL:
        for stage, seconds in job.seconds.items():
            observe_stage_seconds(deps.counters, stage, seconds)
    match outcome:
        case Crashed():
            deps.counters.increment("attempts_lost")
        case Paused(over_budget=True):
            deps.counters.increment("budget_pauses")
