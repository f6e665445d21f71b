"""What a stage's work receives, and the outcomes it returns."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qcrd.errors import Interrupted
from qcrd.records.job import Job, Progress, Report, Stage
from qcrd.runtime.jobs import commands as jobs
from qcrd.runtime.jobs.lease import LeaseHeartbeat
from qcrd.runtime.jobs.queue import JobQueue
from qcrd.runtime.jobs.state_machine import LEASE_TTL
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.jobs.stores.fencing import FencedEventLog, FencedStore
from qcrd.runtime.redis.counters import Counters, MemoryCounters
from qcrd.runtime.redis.event_log import EventLog
from qcrd.runtime.redis.webhook_queue import MemoryWebhookQueue, WebhookQueue
from qcrd.runtime.storage.store import Store

WAITS_FOR_JOB = "waiting_for_job"
"""Code of the `Transient` of a stage that waits for another job. Both jobs may count towards one
owner's limit of running jobs, so the waiting job is queued again and stops counting."""


@dataclass(frozen=True)
class NextStage:
    """The stage is done; `stage` follows, on its own queue. `changes` are written to the job."""

    stage: Stage
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JobDone:
    """The job has succeeded. The job's seconds per stage are added to those of `report`."""

    report: Report
    changes: Mapping[str, Any] = field(default_factory=dict)


class WorkGoesOn(Exception):
    """The worker ends and the work does not: what does it elsewhere keeps and renews the lease."""


def _make_worker_id() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _never_stopping() -> bool:
    return False


@dataclass(frozen=True)
class WorkerDeps:
    """A worker's dependencies. `is_stopping` returns whether the process is shutting down.

    `heartbeat` (between two renewals of the lease) and `ttl` (of the lease) are in seconds.
    """

    jobs: JobStore
    events: EventLog
    store: Store
    queue: JobQueue
    owner: str = field(default_factory=_make_worker_id)
    counters: Counters = field(default_factory=MemoryCounters)
    webhook_queue: WebhookQueue = field(default_factory=MemoryWebhookQueue)
    is_stopping: Callable[[], bool] = _never_stopping
    heartbeat: float = 10.0
    ttl: float = LEASE_TTL


class _StageTimer:
    """Estimates the rest of the stage from its pace since this worker began on it."""

    def __init__(self, percent: float) -> None:
        self._start_percent = percent
        self._started_at = time.monotonic()

    def eta(self, percent: float) -> float | None:
        done = percent - self._start_percent
        if done <= 0:
            return None
        return round((time.monotonic() - self._started_at) * (100.0 - percent) / done, 1)


class StageContext:
    """The argument of a stage's work: the claimed job, fenced writes, and whether to stop."""

    def __init__(self, deps: WorkerDeps, job: Job, heartbeat: LeaseHeartbeat) -> None:
        self.job = job
        self.token = job.lease.token
        self.jobs = deps.jobs
        self.events: EventLog = FencedEventLog(deps.events, heartbeat.check_lease)
        self.store: Store = FencedStore(deps.store, heartbeat.check_lease)
        self.counters = deps.counters
        self._is_stopping = deps.is_stopping
        self._heartbeat = heartbeat
        self._ttl = deps.ttl
        self._timer = _StageTimer(job.progress.percent)

    def should_stop(self) -> bool:
        """Whether to stop at the next safe point. Cheap: the job is read at most once a second."""
        return self._is_stopping() or not self.is_wanted()

    def is_worker_stopping(self) -> bool:
        """Whether this worker is to end, whatever becomes of the job."""
        return self._is_stopping()

    def is_wanted(self) -> bool:
        """Whether the job is to go on, here or with another worker after this one."""
        return self._heartbeat.should_continue()

    def set_lease_seconds(self, seconds: float | None) -> None:
        """Have the lease last `seconds` from each renewal on, or as long as any (None). Never less:
        a long one is for work elsewhere that goes on when this worker ends and cannot renew it."""
        self._heartbeat.set_ttl(max(seconds or 0.0, self._ttl))

    def raise_if_stopping(self) -> None:
        """Raise `Interrupted` if `should_stop`."""
        if self.should_stop():
            raise Interrupted(f"job {self.job.id} was asked to stop")

    def report_progress(self, percent: float, *, step: int = 0, total: int = 0) -> None:
        """Write the stage's progress, `percent` in [0, 100], and clear `waiting`."""
        self.update_job(progress=self.make_progress(percent, step, total), waiting=None, backoffs=0)

    def make_progress(self, percent: float, step: int, total: int) -> Progress:
        """Progress with the estimated seconds to the end of the stage."""
        eta = self._timer.eta(percent)
        return Progress(percent=percent, step=step, total_steps=total, eta_seconds=eta)

    def enter_stage(self, stage: Stage) -> None:
        """Continue with another stage of the same task; the previous stage's time ends here."""
        self.update_job(stage=stage, progress=Progress(), waiting=None, backoffs=0)
        self._timer = _StageTimer(0.0)

    def update_job(self, **changes: Any) -> None:
        """Write to the job. `LeaseLost` when this worker no longer holds it."""
        self.job = jobs.update_job(self.jobs, self.job.id, self.token, **changes)

    def emit(self, message: str, *, once: str | None = None, **data: Any) -> None:
        """Append an event. `once` names it: repeating the stage does not append it again."""
        self.events.append(self.job.id, message, data=data, once=once)

    def emit_metrics(self, message: str, *, once: str | None = None, **data: Any) -> None:
        """Append an event of type `metrics`: numbers to plot."""
        self.events.append(self.job.id, message, type="metrics", data=data, once=once)


StageWork = Callable[[StageContext], NextStage | JobDone]
