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
from qcrd.runtime.jobs.fencing import FencedEvents, FencedStore
from qcrd.runtime.jobs.lease import Holding
from qcrd.runtime.jobs.queue import Queue
from qcrd.runtime.jobs.state_machine import TTL
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.counters import MemoryTally, Tally
from qcrd.runtime.redis.event_log import Events
from qcrd.runtime.redis.webhook_queue import Deliveries, MemoryDeliveries
from qcrd.runtime.storage.store import Store

WAITS_FOR_JOB = "waiting_for_job"
"""The code of a `Transient` from work that waits for another job. That one may need the room which
its owner's running jobs leave, so whoever waits for it goes back into the line."""


WAITS_FOR_JOB = "waiting_for_job"
"""The code of a `Transient` from work that waits for another job. That one may need the room which
its owner's running jobs leave, so whoever waits for it goes back into the line."""


@dataclass(frozen=True)
class Next:
    """The stage is done; `stage` follows, on its own queue. `changes` go into the job with it."""

    stage: Stage
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """The job has succeeded. Seconds that `report` lacks are filled in from the job's own."""

    report: Report
    changes: Mapping[str, Any] = field(default_factory=dict)


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Deps:
    """What a worker is made of. `stopping` tells that its container is being shut down.

    `heartbeat` (between beats) and `ttl` (that a beat is good for) are in seconds.
    """

    jobs: JobStore
    events: Events
    store: Store
    queue: Queue
    owner: str = field(default_factory=_owner)
    tally: Tally = field(default_factory=MemoryTally)
    deliveries: Deliveries = field(default_factory=MemoryDeliveries)
    stopping: Callable[[], bool] = _never
    heartbeat: float = 10.0
    ttl: float = TTL


class _Begun:
    """When this worker began on the stage, and how far it was by then."""

    def __init__(self, percent: float) -> None:
        self._percent = percent
        self._at = time.monotonic()

    def eta(self, percent: float) -> float | None:
        done = percent - self._percent
        if done <= 0:
            return None
        return round((time.monotonic() - self._at) * (100.0 - percent) / done, 1)


class StageContext:
    """What `work` gets: the job as claimed, where to write, and whether to go on."""

    def __init__(self, deps: Deps, job: Job, holding: Holding) -> None:
        self.job = job
        self.token = job.lease.token
        self.jobs = deps.jobs
        self.events: Events = FencedEvents(deps.events, holding.check)
        self.store: Store = FencedStore(deps.store, holding.check)
        self.tally = deps.tally
        self._stopping = deps.stopping
        self._holding = holding
        self._begun = _Begun(job.progress.percent)

    def interrupted(self) -> bool:
        """Whether to stop at the next safe point. Cheap: the job is read once a second at most."""
        return self._stopping() or not self._holding.look()

    def check(self) -> None:
        """`Interrupted` when the work is to stop."""
        if self.interrupted():
            raise Interrupted(f"job {self.job.id} is to stop")

    def progress(self, percent: float, *, step: int = 0, total: int = 0) -> None:
        """Tell that the stage got on; `percent` in [0, 100]. Ends a wait that was shown."""
        self.amend(progress=self.paced(percent, step, total), waiting=None, backoffs=0)

    def paced(self, percent: float, step: int, total: int) -> Progress:
        """Progress with the seconds that the rest of the stage takes at the pace so far."""
        eta = self._begun.eta(percent)
        return Progress(percent=percent, step=step, total_steps=total, eta_seconds=eta)

    def enter(self, stage: Stage) -> None:
        """Go on to another stage of the same task; the time of the one before ends here."""
        self.amend(stage=stage, progress=Progress(), waiting=None, backoffs=0)
        self._begun = _Begun(0.0)

    def amend(self, **changes: Any) -> None:
        """Write to the job. `LeaseLost` when it is not ours any more."""
        self.job = jobs.amend(self.jobs, self.job.id, self.token, **changes)

    def say(self, message: str, *, once: str | None = None, **data: Any) -> None:
        """`once` names what is told, so that doing the work again does not tell it again."""
        self.events.append(self.job.id, message, data=data, once=once)

    def measure(self, message: str, *, once: str | None = None, **data: Any) -> None:
        """An event of type `metrics`: numbers for curves rather than words for people."""
        self.events.append(self.job.id, message, type="metrics", data=data, once=once)


Work = Callable[[StageContext], Next | Done]
