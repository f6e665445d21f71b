"""What the gateway's worker does beside its tasks, on in-memory twins."""

from __future__ import annotations

import threading
import time

from redis.exceptions import ResponseError

from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime import keys
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.event_trimming import MemoryEventTrimmer
from qcrd.runtime.redis.generation_buffer import MemoryGenerationBuffer
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.retention import sweeper as retention
from qcrd.runtime.retention.eviction import Evictor
from qcrd.runtime.settings import RetentionSettings
from qcrd.runtime.storage.inventory import InventoriedMemoryStore
from qcrd.runtime.storage.store import write_record
from services.api import worker
from tests.reaping import reap_lost_job

ID = "ftjob-" + "a" * 24


class Lock:
    """A server that at first refuses what it is asked, as one with a wrong configuration does."""

    refusals = 2

    def set(self, *_: object, **__: object) -> bool:
        if self.refusals:
            self.refusals -= 1
            raise ResponseError("NOPERM")
        return True


def test_the_reaper_outlives_what_nobody_foresaw() -> None:
    assert reap_lost_job(Lock(), ID, seconds=0.01) == (Stage.ASSEMBLING, ID)


class Sweeper:
    """Fails once, as when a store is away."""

    passes = 0

    def sweep(self) -> None:
        self.passes += 1
        if self.passes == 1:
            raise RuntimeError("nobody foresaw this")


def test_what_ends_batches_outlives_what_nobody_foresaw() -> None:
    stop_event, sweeper = threading.Event(), Sweeper()
    arguments = (Lock(), sweeper, 0.01, stop_event)
    thread = threading.Thread(target=worker.sweep_batches_forever, args=arguments)
    thread.start()
    deadline = time.monotonic() + 60
    while sweeper.passes < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    stop_event.set()
    thread.join()
    assert sweeper.passes >= 3


class Checker:
    """Fails once, as when Redis is away; then a teacher is away, and then all are well."""

    def __init__(self) -> None:
        self.looks = 0

    def check(self) -> bool:
        self.looks += 1
        if self.looks == 1:
            raise RuntimeError("nobody foresaw this")
        return self.looks > 2


def test_teachers_are_looked_at_until_the_worker_stops() -> None:
    """At the start, and then by whoever has the lock."""
    stop_event, checker = threading.Event(), Checker()
    thread = threading.Thread(
        target=worker.check_teachers_forever,
        args=(Lock(), checker, stop_event),
        kwargs={"seconds": 0.01, "recheck_seconds": 0.01},
    )
    thread.start()
    deadline = time.monotonic() + 60
    while checker.looks < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    stop_event.set()
    thread.join()
    assert checker.looks >= 4


def test_ended_jobs_leave_redis_for_the_store_by_themselves() -> None:
    stop_event, store, jobs = threading.Event(), InventoriedMemoryStore(), MemoryJobStore()
    spec = JobSpec(model="tiny", training_file="file-" + "0" * 24)
    for number, status in enumerate((JobStatus.CANCELLED, JobStatus.PAUSED)):
        times = {"created_at": 0.0, "finished_at": 1.0}
        concluded = status is JobStatus.CANCELLED
        job = Job(id=f"ftjob-{number:024x}", spec=spec, status=status, concluded=concluded, **times)
        jobs.create(job)
        write_record(store, keys.job_spec_key(job.id), spec)
    events = MemoryEventLog()
    evictor = Evictor(jobs, events, MemoryEventTrimmer(events), MemoryGenerationBuffer(), store)
    sweeper = retention.Sweeper(evictor, store, RetentionSettings())
    store.put(keys.checkpoint_prefix(f"ftjob-{0:024x}") + "x", b"")
    thread = threading.Thread(
        target=worker.sweep_forever,
        args=(Lock(), sweeper, stop_event),
        kwargs={"seconds": 0.01, "store_seconds": 0.0},
    )
    thread.start()
    deadline = time.monotonic() + 60
    while len(jobs.list(None, 9)) > 1 or any("checkpoints/" in key for key in store.list("")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stop_event.set()
    thread.join()
    [left] = jobs.list(None, 9)
    assert left.status is JobStatus.PAUSED
