"""What a worker can still write past its lease or its job's end: nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from qcrd.errors import LeaseLost
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime.jobs.commands import claim_job, transition_job
from qcrd.runtime.jobs.lease import POLL_SECONDS, LeaseHeartbeat
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import StageContext, WorkerDeps
from qcrd.runtime.jobs.state_machine import revoke_lease
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.storage.store import MemoryStore, read_object

ID = "ftjob-" + "0" * 24
WRITES: dict[str, Callable[[StageContext], object]] = {
    "put": lambda stage: stage.store.put("jobs/x", b"stale"),
    "delete": lambda stage: stage.store.delete("jobs/x"),
    "say": lambda stage: stage.emit("stale"),
    "measure": lambda stage: stage.emit_metrics("stale"),
    "append": lambda stage: stage.events.append(ID, "stale"),
    "forget": lambda stage: stage.events.delete(ID),
}


class World:
    def __init__(self, ttl: float) -> None:
        self.jobs, self.events, self.store = MemoryJobStore(), MemoryEventLog(), MemoryStore()
        spec = JobSpec(model="tiny", training_file="file-" + "0" * 24)
        self.jobs.create(Job(id=ID, spec=spec, status=JobStatus.QUEUED, created_at=time.time()))
        self.store.put("jobs/x", b"fresh")
        self.events.append(ID, "fresh")
        job = claim_job(self.jobs, ID, "a", stage=Stage.ASSEMBLING, now=time.time(), ttl=ttl)
        assert job is not None
        deps = WorkerDeps(self.jobs, self.events, self.store, MemoryJobQueue())
        self.holding = LeaseHeartbeat(self.jobs, job, heartbeat=60.0, ttl=ttl)
        self.stage = StageContext(deps, job, self.holding)

    def unchanged(self) -> bool:
        messages = [event.message for event in self.stage.events.read(ID)]
        return read_object(self.stage.store, "jobs/x") == b"fresh" and messages == ["fresh"]


def look_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the time pass after which the job is read again."""
    later = time.monotonic() + 2 * POLL_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_after_the_lease_a_write_is_refused_and_changes_nothing(
    write: Callable[[StageContext], object],
) -> None:
    world = World(ttl=0.05)
    time.sleep(0.06)
    with pytest.raises(LeaseLost):
        write(world.stage)
    assert world.unchanged()


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_within_the_lease_it_is_written(write: Callable[[StageContext], object]) -> None:
    world = World(ttl=60.0)
    write(world.stage)
    assert world.stage.events.read(ID) == world.events.read(ID)


def test_one_who_is_told_to_pause_may_write_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint, for one."""
    world = World(ttl=60.0)
    transition_job(world.jobs, ID, JobStatus.PAUSED)
    look_due(monkeypatch)
    assert world.stage.should_stop()
    world.stage.store.put("jobs/x", b"the last one")


def cancel(jobs: MemoryJobStore) -> None:
    transition_job(jobs, ID, JobStatus.CANCELLED)


def delete(jobs: MemoryJobStore) -> None:
    jobs.delete(ID)


@pytest.mark.parametrize("end", [cancel, delete])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_after_the_jobs_end_a_write_is_refused_and_brings_nothing_back(
    write: Callable[[StageContext], object],
    end: Callable[[MemoryJobStore], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even by one who never looked whether it is to stop."""
    world = World(ttl=60.0)
    end(world.jobs)
    look_due(monkeypatch)
    with pytest.raises(LeaseLost):
        write(world.stage)
    assert world.stage.should_stop()
    assert world.unchanged()


@pytest.mark.parametrize("end", [cancel, delete])
def test_a_heartbeat_that_finds_the_job_over_ends_the_writing(
    end: Callable[[MemoryJobStore], None],
) -> None:
    world = World(ttl=60.0)
    beating = LeaseHeartbeat(world.jobs, world.stage.job, heartbeat=0.01, ttl=60.0)
    end(world.jobs)
    with beating:
        deadline = time.monotonic() + 60
        while beating.should_continue():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(LeaseLost):
            beating.check_lease()


def test_one_who_sees_another_holder_writes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(ttl=60.0)
    world.jobs.update(ID, revoke_lease)  # the others have not heard of it
    assert claim_job(world.jobs, ID, "b", stage=Stage.ASSEMBLING, now=time.time()) is not None
    look_due(monkeypatch)
    assert world.stage.should_stop()
    with pytest.raises(LeaseLost):
        world.stage.emit("stale")
    assert world.unchanged()
