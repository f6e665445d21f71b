"""Run one stage of a job: claim the job, renew its lease during the work, write the outcome.

Jobs are retried here and nowhere else. What the work raises decides: `Transient` backs off and
costs no attempt, `MustPause` pauses the job, any other `QcrdError` fails it with its message, and
an unexpected exception costs one of `MAX_ATTEMPTS`.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from qcrd.errors import (
    Interrupted,
    LeaseLost,
    MustPause,
    NotFound,
    OverBudget,
    QcrdError,
    Transient,
)
from qcrd.records.job import Job, JobFailure, JobStatus, Progress, Stage
from qcrd.runtime import telemetry
from qcrd.runtime.jobs.archive.job_archive import save_snapshot
from qcrd.runtime.jobs.dispatch import claim_next_job, wake_next_job
from qcrd.runtime.jobs.finalize import finalize
from qcrd.runtime.jobs.lease import LeaseHeartbeat
from qcrd.runtime.jobs.stage_context import (
    WAITS_FOR_JOB,
    JobDone,
    NextStage,
    StageContext,
    StageWork,
    WorkerDeps,
    WorkGoesOn,
)
from qcrd.runtime.jobs.state_machine import (
    MAX_ATTEMPTS,
    STAGE_TASKS,
    TERMINAL,
    attempts_exhausted,
    check_lease,
    release_lease,
    transition,
    with_changes,
    with_waiting,
)
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.counters import observe_stage_seconds
from qcrd.runtime.redis.event_log import EventLog
from qcrd.runtime.retrying import call_with_retries, compute_backoff

log = logging.getLogger(__name__)
T = TypeVar("T")

BACKOFF_SECONDS = (2.0, 60.0)
"""First delay after a `Transient`, doubled each time, and the longest one."""
REDIS_BACKOFF_SECONDS = (0.5, 5.0)
"""The same while Redis is unavailable."""
CRASH_RETRY_SECONDS = 5.0
"""Delay before a crashed stage is retried."""


@dataclass(frozen=True)
class _Backoff:
    reason: Transient


@dataclass(frozen=True)
class _Failed:
    failure: JobFailure


@dataclass(frozen=True)
class _Crashed:
    reason: str


@dataclass(frozen=True)
class _Paused:
    reason: str
    over_budget: bool


class _Stopped:
    """The job was cancelled or paused, or the worker is shutting down."""


class _LeaseLost:
    """The lease expired or went to another worker during the stage."""


class _GoesOn:
    """The work outlives its worker and holds the lease: nothing is written."""


Outcome = (
    NextStage | JobDone | _Backoff | _Failed | _Crashed | _Paused | _Stopped | _LeaseLost | _GoesOn
)


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
        outcome = _run_work(work, StageContext(deps, job, heartbeat))
    if not isinstance(outcome, _GoesOn):
        _write_outcome(deps, job, outcome)
    log.info("stage %s finished: %s", stage.value, _describe_outcome(outcome))


def _retry_while_unavailable(deps: WorkerDeps, call: Callable[[], T]) -> T:
    """Retry `call` while Redis is unavailable. The message is already acknowledged, so giving up
    would leave the job to the reaper."""

    def before_retry(error: Transient) -> None:
        if deps.is_stopping():
            raise error
        log.warning("Redis unavailable, retrying: %s", error)

    delays = (compute_backoff(retries, *REDIS_BACKOFF_SECONDS) for retries in itertools.count())
    return call_with_retries(call, delays, before_retry=before_retry)


def _run_work(work: StageWork, context: StageContext) -> Outcome:
    try:
        return work(context)
    except Interrupted as error:
        log.info("stage interrupted: %s", error)
        return _Stopped()
    except WorkGoesOn as error:
        log.info("%s", error)
        return _GoesOn()
    except LeaseLost as error:
        log.warning("lease lost, stage stopped: %s", error)
        return _LeaseLost()
    except MustPause as error:
        return _Paused(error.message, over_budget=isinstance(error, OverBudget))
    except Transient as error:
        return _Backoff(error)
    except QcrdError as error:
        return _Failed(JobFailure(message=error.message, code=error.code, param=error.param))
    except Exception as error:
        log.exception("the stage crashed")
        return _Crashed(f"{type(error).__name__}: {error}")


def _describe_outcome(outcome: Outcome) -> str:
    """The outcome in the words of the log."""
    match outcome:
        case NextStage(stage):
            return f"next stage {stage.value}"
        case JobDone():
            return "job done"
        case _Backoff():
            return "waiting"
        case _Failed():
            return "failed"
        case _Crashed():
            return "crashed"
        case _Paused():
            return "paused"
        case _Stopped():
            return "stopped"
        case _LeaseLost():
            return "lease lost"
        case _GoesOn():
            return "goes on without this worker"


def _write_outcome(deps: WorkerDeps, job: Job, outcome: Outcome) -> None:
    """Write the outcome, which releases the lease, then emit its event and queue what follows."""
    token, now = job.lease.token, time.time()
    attempted: list[Job] = []

    def change(current: Job) -> Job:
        if current in attempted:
            return current  # it was written, but Redis's reply was lost
        check_lease(current, token)
        attempted.append(_apply_outcome(current, outcome, now))
        return attempted[-1]

    try:
        after = _retry_while_unavailable(deps, lambda: deps.jobs.update(job.id, change))
    except (LeaseLost, NotFound) as error:
        log.info("outcome not written: %s", error)
        if _retry_while_unavailable(deps, lambda: _was_taken_over(deps.jobs, job)):
            deps.counters.increment("lease_losses", stage=(job.stage or Stage.ASSEMBLING).value)
        return
    _update_counters(deps, after, outcome)
    if after.status in TERMINAL:
        _retry_while_unavailable(deps, lambda: finalize(deps, after))
    else:
        _retry_while_unavailable(deps, lambda: _emit_outcome(deps.events, after, outcome))
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
    except NotFound:
        return False


def _update_counters(deps: WorkerDeps, job: Job, outcome: Outcome) -> None:
    if job.status in TERMINAL:
        for stage, seconds in job.seconds.items():
            observe_stage_seconds(deps.counters, stage, seconds)
    match outcome:
        case _Crashed():
            deps.counters.increment("attempts_lost")
        case _Paused(over_budget=True):
            deps.counters.increment("budget_pauses")


def _apply_outcome(job: Job, outcome: Outcome, now: float) -> Job:
    """`job` after `outcome`: its lease released and, if it continues, `sent_at` set."""
    job = release_lease(job, now)
    match outcome:
        case NextStage(stage, changes):
            reset = {"progress": Progress(), "waiting": None, "backoffs": 0, "sent_at": now}
            return with_waiting(job, {**reset, "stage": stage, **changes}, now)
        case JobDone():
            return _mark_succeeded(job, outcome, now)
        case _Backoff(reason):
            delay = reason.retry_after or compute_backoff(job.backoffs, *BACKOFF_SECONDS)
            backoffs = job.backoffs + 1
            backoff = {"waiting": reason.message, "backoffs": backoffs, "sent_at": now + delay}
            waiting = with_waiting(job, backoff, now)
            if reason.code == WAITS_FOR_JOB and job.status is JobStatus.RUNNING:
                return transition(waiting, JobStatus.QUEUED, now, {})
            return waiting
        case _Failed(failure):
            return transition(job, JobStatus.FAILED, now, {"failure": failure})
        case _Crashed(reason):
            if job.attempt + 1 >= MAX_ATTEMPTS:
                return attempts_exhausted(job, now, reason)
            return with_changes(job, attempt=job.attempt + 1, sent_at=now + CRASH_RETRY_SECONDS)
        case _Paused(reason) if job.status is JobStatus.RUNNING:
            return transition(job, JobStatus.PAUSED, now, {"paused_because": reason})
        case _Paused() | _Stopped() | _LeaseLost() | _GoesOn():
            return with_changes(job, sent_at=now)


def _mark_succeeded(job: Job, done: JobDone, now: float) -> Job:
    if job.status is not JobStatus.RUNNING:
        # The work finished between the request to pause and the worker's next poll.
        job = transition(job, JobStatus.RUNNING, now, {})
    seconds = {**job.seconds, **done.report.seconds}
    report = done.report.model_copy(update={"seconds": seconds, "status": JobStatus.SUCCEEDED})
    progress = job.progress.model_copy(update={"percent": 100.0})
    changes = {"report": report, "progress": progress, **done.changes}
    return transition(job, JobStatus.SUCCEEDED, now, changes)


def _emit_outcome(events: EventLog, job: Job, outcome: Outcome) -> None:
    match outcome:
        case _Paused(reason):
            data = {"status": job.status.value}
            once = f"paused-{job.lease.token}"
            events.append(job.id, f"paused: {reason}", level="warn", data=data, once=once)
        case _Backoff() if job.backoffs == 1:
            once = f"waiting-{job.lease.token}"
            events.append(job.id, f"waiting: {job.waiting}", level="warn", once=once)
        case _Crashed(reason):
            message = f"attempt {job.attempt} of {MAX_ATTEMPTS} ended with {reason}"
            once = f"attempt-{job.lease.token}"
            events.append(job.id, message, level="warn", data={"attempt": job.attempt}, once=once)
