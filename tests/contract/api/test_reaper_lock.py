"""The reaper's lock on a real server, whose clock was set back while somebody had it."""

from __future__ import annotations

import threading
import time

from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime import redis_keys
from qcrd.runtime.jobs.memory_store import MemoryJobStore
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.event_log import MemoryEventLog
from qcrd.runtime.settings import RecoverySettings, RedisSettings
from qcrd.runtime.storage.store import MemoryStore
from services.api import worker

ID = "ftjob-" + "a" * 24
HOUR_MS = 3_600_000


def test_a_lock_of_before_the_clock_went_back_is_not_held_for_as_long(
    redis_settings: RedisSettings,
) -> None:
    redis, queue = connect_redis(redis_settings), MemoryJobQueue()
    redis.set(redis_keys.REAPER_LOCK, "of one that is gone", px=HOUR_MS)
    recovery = RecoverySettings().model_copy(update={"reap_seconds": 0.05})
    deps = WorkerDeps(MemoryJobStore(), MemoryEventLog(), MemoryStore(), queue)
    spec = JobSpec(model="tiny", training_file="file-" + "0" * 24)
    deps.jobs.create(Job(id=ID, spec=spec, status=JobStatus.QUEUED, created_at=0.0))
    stop_event = threading.Event()
    thread = threading.Thread(target=worker.reap_forever, args=(redis, deps, recovery, stop_event))
    thread.start()
    deadline = time.monotonic() + 60
    while not queue.sent and time.monotonic() < deadline:
        time.sleep(0.01)
    stop_event.set()
    thread.join()
    redis.delete(redis_keys.REAPER_LOCK)
    assert queue.drain()[0] == (Stage.ASSEMBLING, ID)
