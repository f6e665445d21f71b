"""What the gateway's worker does beside its tasks, on in-memory twins."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace

import pytest
from redis.exceptions import ResponseError

from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.spec import JobSpec
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.jobs.store import MemoryJobStore
from qcrd.runtime.redis.event_log import MemoryEventLog
from qcrd.runtime.settings import RecoverySettings
from qcrd.runtime.storage.store import MemoryStore
from services.api import worker

ID = "ftjob-" + "a" * 24


class Lock:
    """A server that at first refuses what it is asked, as one with a wrong configuration does."""

    refusals = 2

    def set(self, *_: object, **__: object) -> bool:
        if self.refusals:
            self.refusals -= 1
            raise ResponseError("NOPERM")
        return True


@dataclass
class Parts:
    recovery: RecoverySettings
    redis: Lock = field(default_factory=Lock)
    made: WorkerDeps = field(
        default_factory=lambda: WorkerDeps(
            MemoryJobStore(), MemoryEventLog(), MemoryStore(), MemoryJobQueue()
        )
    )

    def make_deps(self) -> WorkerDeps:
        return self.made


def test_the_reaper_outlives_what_nobody_foresaw(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(RecoverySettings().model_copy(update={"reap_seconds": 0.01}))
    stopping, queue = threading.Event(), MemoryJobQueue()
    parts.made = replace(parts.made, queue=queue)
    spec = JobSpec(model="tiny", training_file="file-" + "0" * 24)
    parts.made.jobs.create(Job(id=ID, spec=spec, status=JobStatus.QUEUED, created_at=0.0))
    monkeypatch.setattr(worker, "get_worker_context", lambda: parts)
    monkeypatch.setattr(worker, "stop_event", stopping)
    thread = threading.Thread(target=worker.reap_forever)
    thread.start()
    deadline = time.monotonic() + 60
    while not queue.sent and time.monotonic() < deadline:
        time.sleep(0.01)
    stopping.set()
    thread.join()
    assert queue.drain()[0] == (Stage.ASSEMBLING, ID)
