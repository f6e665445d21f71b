"""How a worker does a stage of a job: claim, keep the lease, work, write what comes next.

The retries of the whole system are here and nowhere else. Work raises, and this decides:
`Transient` waits and costs no attempt, `OverBudget` pauses, any other error of the tree fails the
job with its message, and what nobody foresaw costs one of `MAX_ATTEMPTS`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from qcrd.errors import (
    Interrupted,
    LeaseLost,
    NotFound,
    OverBudget,
    QcrdError,
    Transient,
)
from qcrd.records.job import Job, JobFailure, JobStatus, Progress, Stage
from qcrd.runtime import telemetry
from qcrd.runtime.jobs.dispatch import nudge, take
from qcrd.runtime.jobs.finalize import conclude
from qcrd.runtime.jobs.lease import Holding
from qcrd.runtime.jobs.stage_context import WAITS_FOR_JOB, Deps, Done, Next, StageContext, Work
from qcrd.runtime.jobs.state_machine import (
    MAX_ATTEMPTS,
    TASKS,
    TERMINAL,
    changed,
    exhausted,
    freed,
    held,
    moved,
)
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.counters import observe_stage
from qcrd.runtime.redis.event_log import Events

log = logging.getLogger(__name__)
T = TypeVar("T")

BACKOFF_SECONDS = (2.0, 60.0)
"""The first wait for something outside, doubled each time, and the longest."""
RETRY_SECONDS = 5.0
"""Wait before a stage that crashed is tried again."""


@dataclass(frozen=True)
class _Wait:
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


class _Stopped:
    """The work stopped because it was told to."""


class _Lost:
    """The lease went to another worker while this one worked."""


Outcome = Next | Done | _Wait | _Failed | _Crashed | _Paused | _Stopped | _Lost


def run_stage(deps: Deps, job_id: str, stage: Stage, work: Work) -> None:
    """Do `stage` of the job that comes first among those that wait for it; `job_id` is whom the
    message was sent for. By one worker at a time, however often it is delivered. Raises
    `Transient` only when Redis is away while this process is shutting down."""
    with telemetry.log_context(job_id=job_id):
        job = _patiently(deps, lambda: take(deps, job_id, stage))
        if job is None:
            log.info("nothing to do for %s", stage.value)
            deps.tally.add("deliveries_refused", task=TASKS[stage])
            return
    with telemetry.log_context(job_id=job.id, request_id=job.request_id):
        if job.status in TERMINAL:
            _patiently(deps, lambda: conclude(deps, job))
            _patiently(deps, lambda: nudge(deps.jobs, deps.queue, job))
        else:
            log.info("begins %s, attempt %d", stage.value, job.attempt + 1)
            holding = Holding(deps.jobs, job, heartbeat=deps.heartbeat, ttl=deps.ttl)
            with holding:
                outcome = _attempt(work, StageContext(deps, job, holding))
            _finish(deps, job, outcome)
            log.info("ends %s: %s", stage.value, type(outcome).__name__.strip("_").lower())


def _patiently(deps: Deps, call: Callable[[], T]) -> T:
    """`call()`, again and again while Redis is away: the message is acknowledged, so giving up
    would leave the job to the reaper."""
    wait = 0.5
    while True:
        try:
            return call()
        except Transient as error:
            if deps.stopping():
                raise
            log.warning("waiting: %s", error)
            time.sleep(wait)
            wait = min(2 * wait, 5.0)


def _attempt(work: Work, context: StageContext) -> Outcome:
    try:
        return work(context)
    except Interrupted as error:
        log.info("stopped: %s", error)
        return _Stopped()
    except LeaseLost as error:
        log.warning("stopped: %s", error)
        return _Lost()
    except OverBudget as error:
        return _Paused(error.message)
    except Transient as error:
        return _Wait(error)
    except QcrdError as error:
        return _Failed(JobFailure(message=error.message, code=error.code, param=error.param))
    except Exception as error:
        log.exception("the stage crashed")
        return _Crashed(f"{type(error).__name__}: {error}")


def _finish(deps: Deps, job: Job, outcome: Outcome) -> None:
    """Write the outcome and tell it; the lease ends with that one write."""
    token, now = job.lease.token, time.time()
    tried: list[Job] = []

    def change(current: Job) -> Job:
        if current in tried:
            return current  # it was written, and the answer that said so was lost on the way
        held(current, token)
        tried.append(_settled(current, outcome, now))
        return tried[-1]

    try:
        after = _patiently(deps, lambda: deps.jobs.update(job.id, change))
    except (LeaseLost, NotFound) as error:
        log.info("nothing written: %s", error)
        if _patiently(deps, lambda: _taken_over(deps.jobs, job)):
            deps.tally.add("lease_losses", stage=(job.stage or Stage.ASSEMBLING).value)
        return
    _count(deps, after, outcome)
    if after.status in TERMINAL:
        _patiently(deps, lambda: conclude(deps, after))
    else:
        _patiently(deps, lambda: _tell(deps.events, after, outcome))
    if after.status in (JobStatus.QUEUED, JobStatus.RUNNING):
        delay = max(0.0, (after.sent_at or now) - now)
        stage = after.stage or Stage.ASSEMBLING
        _patiently(deps, lambda: deps.queue.send(stage, job.id, countdown=delay))
    if after.status is not JobStatus.RUNNING:
        _patiently(deps, lambda: nudge(deps.jobs, deps.queue, after))


def _taken_over(jobs_: JobStore, job: Job) -> bool:
    """Whether another worker got what was ours; nobody does when a job is cancelled or deleted."""
    try:
        return jobs_.get(job.id).lease.token != job.lease.token
    except NotFound:
        return False


def _count(deps: Deps, job: Job, outcome: Outcome) -> None:
    if job.status in TERMINAL:
        for stage, seconds in job.seconds.items():
            observe_stage(deps.tally, stage, seconds)
    match outcome:
        case _Crashed():
            deps.tally.add("attempts_lost")
        case _Paused():
            deps.tally.add("budget_pauses")


def _settled(job: Job, outcome: Outcome, now: float) -> Job:
    """`job` after a worker's `outcome`, held by nobody and, if it goes on, with its message due."""
    job = freed(job, now)
    match outcome:
        case Next(stage, changes):
            fresh = {"progress": Progress(), "waiting": None, "backoffs": 0, "sent_at": now}
            return changed(job, **{**fresh, "stage": stage, **changes})
        case Done():
            return _succeeded(job, outcome, now)
        case _Wait(reason):
            first, longest = BACKOFF_SECONDS
            delay = reason.retry_after or min(longest, first * 2.0 ** min(job.backoffs, 30))
            backoffs = job.backoffs + 1
            waits = {"waiting": reason.message, "backoffs": backoffs, "sent_at": now + delay}
            if reason.code == WAITS_FOR_JOB and job.status is JobStatus.RUNNING:
                return moved(job, JobStatus.QUEUED, now, waits)
            return changed(job, **waits)
        case _Failed(failure):
            return moved(job, JobStatus.FAILED, now, {"failure": failure})
        case _Crashed(reason):
            if job.attempt + 1 >= MAX_ATTEMPTS:
                return exhausted(job, now, reason)
            return changed(job, attempt=job.attempt + 1, sent_at=now + RETRY_SECONDS)
        case _Paused(reason) if job.status is JobStatus.RUNNING:
            return moved(job, JobStatus.PAUSED, now, {"paused_because": reason})
        case _Paused() | _Stopped() | _Lost():
            return changed(job, sent_at=now)


def _succeeded(job: Job, done: Done, now: float) -> Job:
    if job.status is not JobStatus.RUNNING:
        # Its last step was done between the request to pause and the worker's next look.
        job = moved(job, JobStatus.RUNNING, now, {})
    seconds = {**job.seconds, **done.report.seconds}
    report = done.report.model_copy(update={"seconds": seconds, "status": JobStatus.SUCCEEDED})
    progress = job.progress.model_copy(update={"percent": 100.0})
    changes = {"report": report, "progress": progress, **done.changes}
    return moved(job, JobStatus.SUCCEEDED, now, changes)


def _tell(events: Events, job: Job, outcome: Outcome) -> None:
    match outcome:
        case _Paused(reason):
            data = {"status": job.status.value}
            once = f"paused-{job.lease.token}"
            events.append(job.id, f"paused: {reason}", level="warn", data=data, once=once)
        case _Wait() if job.backoffs == 1:
            once = f"waiting-{job.lease.token}"
            events.append(job.id, f"waiting: {job.waiting}", level="warn", once=once)
        case _Crashed(reason):
            message = f"attempt {job.attempt} of {MAX_ATTEMPTS} ended with {reason}"
            once = f"attempt-{job.lease.token}"
            events.append(job.id, message, level="warn", data={"attempt": job.attempt}, once=once)
