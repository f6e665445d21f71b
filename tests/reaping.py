"""A reaper's loop in a thread, over a job whose message was lost."""

from __future__ import annotations

import threading
import time
from typing import Any

from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.settings import RecoverySettings
from qcrd.runtime.storage.store import MemoryStore
from services.api import worker


def reap_lost_job(redis: Any, job_id: str, *, seconds: float) -> tuple[Stage, str]:
    """The message that the reaper sends for it at last; `redis` has its lock, for `seconds`."""
    recovery = RecoverySettings().model_copy(update={"reap_seconds": seconds})
    stop_event, queue = threading.Event(), MemoryJobQueue()
    deps = WorkerDeps(MemoryJobStore(), MemoryEventLog(), MemoryStore(), queue)
    spec = JobSpec(model="tiny", training_file="file-" + "0" * 24)
    deps.jobs.create(Job(id=job_id, spec=spec, status=JobStatus.QUEUED, created_at=0.0))
    thread = threading.Thread(target=worker.reap_forever, args=(redis, deps, recovery, stop_event))
    thread.start()
    deadline = time.monotonic() + 60
    while not queue.sent and time.monotonic() < deadline:
        time.sleep(0.01)
    stop_event.set()
    thread.join()
    return queue.drain()[0]
