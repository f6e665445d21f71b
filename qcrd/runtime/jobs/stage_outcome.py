"""The outcome of a stage: what its work did or raised, and what becomes of the job.

What the work raises decides: `Transient` backs off and costs no attempt, `MustPause` pauses the
job, any other `QcrdError` fails it with its message, and an unexpected exception costs one of
`MAX_ATTEMPTS`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from qcrd.errors import Interrupted, LeaseLost, MustPause, OverBudget, QcrdError, Transient
from qcrd.records.job import Job, JobFailure, JobStatus, Progress
from qcrd.runtime.jobs.stage_context import (
    WAITS_FOR_JOB,
    JobDone,
    NextStage,
    StageContext,
    StageWork,
    WorkGoesOn,
)
from qcrd.runtime.jobs.state_machine import (
    MAX_ATTEMPTS,
    attempts_exhausted,
    release_lease,
    transition,
    with_changes,
    with_waiting,
)
from qcrd.runtime.redis.event_log import EventLog
from qcrd.runtime.retrying import compute_backoff

log = logging.getLogger(__name__)

BACKOFF_SECONDS = (2.0, 60.0)
"""First delay after a `Transient`, doubled each time, and the longest one."""
CRASH_RETRY_SECONDS = 5.0
"""Delay before a crashed stage is retried."""


@dataclass(frozen=True)
class Backoff:
    reason: Transient


@dataclass(frozen=True)
class Failed:
    failure: JobFailure


@dataclass(frozen=True)
class Crashed:
    reason: str


@dataclass(frozen=True)
class Paused:
    reason: str
    over_budget: bool


class Stopped:
    """The job was cancelled or paused, or the worker is shutting down."""


class LostLease:
    """The lease expired or went to another worker during the stage."""


class GoesOn:
    """The work outlives its worker and holds the lease: nothing is written."""


Outcome = NextStage | JobDone | Backoff | Failed | Crashed | Paused | Stopped | LostLease | GoesOn


def run_work(work: StageWork, context: StageContext) -> Outcome:
    try:
        return work(context)
    except Interrupted as error:
        log.info("stage interrupted: %s", error)
        return Stopped()
    except WorkGoesOn as error:
        log.info("%s", error)
        return GoesOn()
    except LeaseLost as error:
        log.warning("lease lost, stage stopped: %s", error)
        return LostLease()
    except MustPause as error:
        return Paused(error.message, over_budget=isinstance(error, OverBudget))
    except Transient as error:
        return Backoff(error)
    except QcrdError as error:
        return Failed(JobFailure(message=error.message, code=error.code, param=error.param))
    except Exception as error:  # the boundary of a stage: its job fails, its worker does not
        log.exception("the stage crashed")
        return Crashed(f"{type(error).__name__}: {error}")


def describe_outcome(outcome: Outcome) -> str:
    """The outcome in the words of the log."""
    match outcome:
        case NextStage(stage):
            return f"next stage {stage.value}"
        case JobDone():
            return "job done"
        case Backoff():
            return "waiting"
        case Failed():
            return "failed"
        case Crashed():
            return "crashed"
        case Paused():
            return "paused"
        case Stopped():
            return "stopped"
        case LostLease():
            return "lease lost"
        case GoesOn():
            return "goes on without this worker"


def apply_outcome(job: Job, outcome: Outcome, now: float) -> Job:
    """`job` after `outcome`: its lease released and, if it continues, `sent_at` set."""
    job = release_lease(job, now)
    match outcome:
        case NextStage(stage, changes):
            reset = {"progress": Progress(), "waiting": None, "backoffs": 0, "sent_at": now}
            return with_waiting(job, {**reset, "stage": stage, **changes}, now)
        case JobDone():
            return _mark_succeeded(job, outcome, now)
        case Backoff(reason):
            delay = reason.retry_after or compute_backoff(job.backoffs, *BACKOFF_SECONDS)
            backoffs = job.backoffs + 1
            backoff = {"waiting": reason.message, "backoffs": backoffs, "sent_at": now + delay}
            waiting = with_waiting(job, backoff, now)
            if reason.code == WAITS_FOR_JOB and job.status is JobStatus.RUNNING:
                return transition(waiting, JobStatus.QUEUED, now, {})
            return waiting
        case Failed(failure):
            return transition(job, JobStatus.FAILED, now, {"failure": failure})
        case Crashed(reason):
            if job.attempt + 1 >= MAX_ATTEMPTS:
                return attempts_exhausted(job, now, reason)
            return with_changes(job, attempt=job.attempt + 1, sent_at=now + CRASH_RETRY_SECONDS)
        case Paused(reason) if job.status is JobStatus.RUNNING:
            return transition(job, JobStatus.PAUSED, now, {"paused_because": reason})
        case Paused() | Stopped() | LostLease() | GoesOn():
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


def emit_outcome(events: EventLog, job: Job, outcome: Outcome) -> None:
    match outcome:
        case Paused(reason):
            data = {"status": job.status.value}
            once = f"paused-{job.lease.token}"
            events.append(job.id, f"paused: {reason}", level="warn", data=data, once=once)
        case Backoff() if job.backoffs == 1:
            once = f"waiting-{job.lease.token}"
            events.append(job.id, f"waiting: {job.waiting}", level="warn", once=once)
        case Crashed(reason):
            message = f"attempt {job.attempt} of {MAX_ATTEMPTS} ended with {reason}"
            once = f"attempt-{job.lease.token}"
            events.append(job.id, message, level="warn", data={"attempt": job.attempt}, once=once)
