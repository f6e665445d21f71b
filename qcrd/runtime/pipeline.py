"""How a worker does a stage of a job: claim, keep the lease, work, write what comes next.

The retries of the whole system are here and nowhere else. Work raises, and this decides:
`Transient` waits and costs no attempt, any other error of the tree fails the job with its message,
and what nobody foresaw costs one of `MAX_ATTEMPTS`.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from qcrd.errors import Interrupted, LeaseLost, NotFound, QcrdError, Transient
from qcrd.records import Failure, Job, Progress, Stage, Status
from qcrd.runtime import jobs, keys, telemetry
from qcrd.runtime.events import Events
from qcrd.runtime.lease import Holding
from qcrd.runtime.reaper import reap
from qcrd.runtime.stage import Deps, Done, Next, StageContext, Work
from qcrd.runtime.states import MAX_ATTEMPTS, TERMINAL, changed, exhausted, freed, held, moved
from qcrd.runtime.store import Store, write_lines, write_record

__all__ = ["Deps", "Done", "Next", "StageContext", "Work", "conclude", "reap", "run_stage"]

log = logging.getLogger(__name__)
T = TypeVar("T")

BACKOFF_SECONDS = (2.0, 60.0)
"""The first wait for something outside, doubled each time, and the longest."""
RETRY_SECONDS = 5.0
"""Wait before a stage that crashed is tried again."""
ARCHIVE_PAGE = 1000


@dataclass(frozen=True)
class _Wait:
    reason: Transient


@dataclass(frozen=True)
class _Failed:
    failure: Failure


@dataclass(frozen=True)
class _Crashed:
    reason: str


class _Stopped:
    """The work stopped because it was told to."""


Outcome = Next | Done | _Wait | _Failed | _Crashed | _Stopped


def run_stage(deps: Deps, job_id: str, stage: Stage, work: Work) -> None:
    """Do `stage` of the job if it is to be done, by one worker at a time, however often it is
    delivered. Raises `Transient` only when Redis is away while this process is shutting down."""
    with telemetry.context(job_id=job_id):
        job = _patiently(deps, lambda: _claim(deps, job_id, stage))
        if job is None:
            log.info("nothing to do for %s", stage.value)
        elif job.status in TERMINAL:
            _patiently(deps, lambda: conclude(deps.events, deps.store, job))
        else:
            holding = Holding(deps.jobs, job, heartbeat=deps.heartbeat, ttl=deps.ttl)
            with holding:
                outcome = _attempt(work, StageContext(deps, job, holding))
            _finish(deps, job, outcome)


def _claim(deps: Deps, job_id: str, stage: Stage) -> Job | None:
    owner = f"{deps.owner}:{secrets.token_hex(4)}"
    return jobs.claim(deps.jobs, job_id, owner, stage=stage, now=time.time(), ttl=deps.ttl)


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
    except (Interrupted, LeaseLost) as error:
        log.info("stopped: %s", error)
        return _Stopped()
    except Transient as error:
        return _Wait(error)
    except QcrdError as error:
        return _Failed(Failure(message=error.message, code=error.code, param=error.param))
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
        return
    if after.status in TERMINAL:
        _patiently(deps, lambda: conclude(deps.events, deps.store, after))
        return
    _patiently(deps, lambda: _tell(deps.events, after, outcome))
    if after.status is not Status.PAUSED:
        delay = max(0.0, (after.sent_at or now) - now)
        stage = after.stage or Stage.ASSEMBLING
        _patiently(deps, lambda: deps.queue.send(stage, job.id, countdown=delay))


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
            return changed(job, waiting=reason.message, backoffs=backoffs, sent_at=now + delay)
        case _Failed(failure):
            return moved(job, Status.FAILED, now, {"failure": failure})
        case _Crashed(reason):
            if job.attempt + 1 >= MAX_ATTEMPTS:
                return exhausted(job, now, reason)
            return changed(job, attempt=job.attempt + 1, sent_at=now + RETRY_SECONDS)
        case _Stopped():
            return changed(job, sent_at=now)


def _succeeded(job: Job, done: Done, now: float) -> Job:
    if job.status is not Status.RUNNING:
        # Its last step was done between the request to pause and the worker's next look.
        job = moved(job, Status.RUNNING, now, {})
    seconds = {**job.seconds, **done.report.seconds}
    report = done.report.model_copy(update={"seconds": seconds, "status": Status.SUCCEEDED})
    progress = job.progress.model_copy(update={"percent": 100.0})
    changes = {"report": report, "progress": progress, **done.changes}
    return moved(job, Status.SUCCEEDED, now, changes)


def _tell(events: Events, job: Job, outcome: Outcome) -> None:
    match outcome:
        case _Wait() if job.backoffs == 1:
            events.append(job.id, f"waiting: {job.waiting}", level="warn")
        case _Crashed(reason):
            message = f"attempt {job.attempt} of {MAX_ATTEMPTS} ended with {reason}"
            events.append(job.id, message, level="warn", data={"attempt": job.attempt})


def conclude(events: Events, store: Store, job: Job) -> None:
    """Tell the end of `job` and archive it: spec, report, events under `jobs/<id>/`.

    The event's `data.status` is the final status; it is the last one of the job. Whoever moves a
    job to a final state by other ways than a worker's outcome (a cancel) calls this afterwards.
    """
    message = f"The job {'was cancelled' if job.status is Status.CANCELLED else job.status.value}"
    if job.failure is not None:
        message += f": {job.failure.message}"
    data = {"status": job.status.value}
    events.append(
        job.id, message, level="error" if job.status is Status.FAILED else "info", data=data
    )
    try:
        _archive(events, store, job)
    except QcrdError as error:
        # Redis still has all of it; a store that is full must not undo a success.
        log.warning("not archived: %s", error)


def _archive(events: Events, store: Store, job: Job) -> None:
    write_record(store, keys.job_spec_key(job.id), job.spec)
    if job.report is not None:
        write_record(store, keys.job_report_key(job.id), job.report)
    history, after = [], None
    while page := events.read(job.id, after, ARCHIVE_PAGE):
        history += page
        after = page[-1].id
    write_lines(store, keys.job_events_key(job.id), history)
