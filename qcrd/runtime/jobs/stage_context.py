"""What a stage's work is given, and what it answers."""

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
from qcrd.runtime.jobs.fencing import FencedEventLog, FencedStore
from qcrd.runtime.jobs.lease import LeaseHeartbeat
from qcrd.runtime.jobs.queue import JobQueue
from qcrd.runtime.jobs.state_machine import LEASE_TTL
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.counters import Counters, MemoryCounters
from qcrd.runtime.redis.event_log import EventLog
from qcrd.runtime.redis.webhook_queue import MemoryWebhookQueue, WebhookQueue
from qcrd.runtime.storage.store import Store

WAITS_FOR_JOB = "waiting_for_job"
"""Code of the `Transient` of a stage that waits for another job. Both jobs may count towards one
owner's limit of running jobs, so the waiting job is queued again and stops counting."""


@dataclass(frozen=True)
class NextStage:
    """The stage is done; `stage` follows, on its own queue. `changes` go into the job with it."""

    stage: Stage
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JobDone:
    """The job has succeeded. Seconds that `report` lacks are filled in from the job's own."""

    report: Report
    changes: Mapping[str, Any] = field(default_factory=dict)


def _make_worker_id() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _never_stopping() -> bool:
    return False


@dataclass(frozen=True)
class WorkerDeps:
    """What a worker is made of. `stopping` tells that its container is being shut down.

    `heartbeat` (between beats) and `ttl` (that a beat is good for) are in seconds.
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
    """When this worker began on the stage, and how far it was by then."""

    def __init__(self, percent: float) -> None:
        self._start_percent = percent
        self._started_at = time.monotonic()

    def eta(self, percent: float) -> float | None:
        done = percent - self._start_percent
        if done <= 0:
            return None
        return round((time.monotonic() - self._started_at) * (100.0 - percent) / done, 1)


class StageContext:
    """What `work` gets: the job as claimed, where to write, and whether to go on."""

    def __init__(self, deps: WorkerDeps, job: Job, heartbeat: LeaseHeartbeat) -> None:
        self.job = job
        self.token = job.lease.token
        self.jobs = deps.jobs
        self.events: EventLog = FencedEventLog(deps.events, heartbeat.check_lease)
        self.store: Store = FencedStore(deps.store, heartbeat.check_lease)
        self.counters = deps.counters
        self._is_stopping = deps.is_stopping
        self._heartbeat = heartbeat
        self._timer = _StageTimer(job.progress.percent)

    def should_stop(self) -> bool:
        """Whether to stop at the next safe point. Cheap: the job is read once a second at most."""
        return self._is_stopping() or not self._heartbeat.should_continue()

    def raise_if_stopping(self) -> None:
        """`Interrupted` when the work is to stop."""
        if self.should_stop():
            raise Interrupted(f"job {self.job.id} is to stop")

    def report_progress(self, percent: float, *, step: int = 0, total: int = 0) -> None:
        """Tell that the stage got on; `percent` in [0, 100]. Ends a wait that was shown."""
        self.update_job(progress=self.make_progress(percent, step, total), waiting=None, backoffs=0)

    def make_progress(self, percent: float, step: int, total: int) -> Progress:
        """Progress with the seconds that the rest of the stage takes at the pace so far."""
        eta = self._timer.eta(percent)
        return Progress(percent=percent, step=step, total_steps=total, eta_seconds=eta)

    def enter_stage(self, stage: Stage) -> None:
        """Go on to another stage of the same task; the time of the one before ends here."""
        self.update_job(stage=stage, progress=Progress(), waiting=None, backoffs=0)
        self._timer = _StageTimer(0.0)

    def update_job(self, **changes: Any) -> None:
        """Write to the job. `LeaseLost` when it is not ours any more."""
        self.job = jobs.update_job(self.jobs, self.job.id, self.token, **changes)

    def emit(self, message: str, *, once: str | None = None, **data: Any) -> None:
        """`once` names what is told, so that doing the work again does not tell it again."""
        self.events.append(self.job.id, message, data=data, once=once)

    def emit_metrics(self, message: str, *, once: str | None = None, **data: Any) -> None:
        """An event of type `metrics`: numbers for curves rather than words for people."""
        self.events.append(self.job.id, message, type="metrics", data=data, once=once)


StageWork = Callable[[StageContext], NextStage | JobDone]
