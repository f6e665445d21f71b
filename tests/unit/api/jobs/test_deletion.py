"""A job that is deleted while another process archives it leaves nothing behind, however the two
interleave."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pytest

from qcrd.errors import NotFound
from qcrd.records.api_keys import ApiKey
from qcrd.records.job import Job, JobStatus
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime import archive_keys, keys
from qcrd.runtime.jobs.archive.job_archive import JobArchive, save_snapshot
from qcrd.runtime.jobs.archive.job_history import JobHistory
from qcrd.runtime.jobs.finalize import finalize
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.store import JobChange
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.event_trimming import MemoryEventTrimmer
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.retention.eviction import Evictor
from qcrd.runtime.settings import ModelSettings
from qcrd.runtime.storage.inventory import InventoriedMemoryStore
from qcrd.runtime.storage.store import write_record
from services.api.dependencies import Gateway, GatewaySettings
from services.api.jobs.lifecycle import delete_job
from services.api.settings import ApiSettings, FileSettings, TeacherSettings

CALLER = ApiKey(name="anonymous", sha256="0" * 64)
SETTINGS = GatewaySettings(ApiSettings(), TeacherSettings(), FileSettings(), ModelSettings())
ID = "ftjob-" + "d" * 24
MOST_TURNS = 60
"""More operations on the stores than either of the two has."""


class Turns:
    """Lets two threads do their operations in turns, each of so many: (thread, number)."""

    def __init__(self, *turns: tuple[str, int]) -> None:
        self._turns = list(turns)
        self._finished: set[str] = set()
        self._changed = threading.Condition()
        self.counts: dict[str, int] = {}

    @contextmanager
    def operation(self) -> Iterator[None]:
        name = threading.current_thread().name
        with self._changed:
            assert self._changed.wait_for(lambda: self._whose() in (name, None), timeout=60)
        yield
        with self._changed:
            self.counts[name] = self.counts.get(name, 0) + 1
            if self._turns and self._turns[0][0] == name:
                self._turns[0] = (name, self._turns[0][1] - 1)
            self._changed.notify_all()

    def finish(self) -> None:
        with self._changed:
            self._finished.add(threading.current_thread().name)
            self._changed.notify_all()

    def _whose(self) -> str | None:
        while self._turns and (self._turns[0][1] <= 0 or self._turns[0][0] in self._finished):
            del self._turns[0]
        return self._turns[0][0] if self._turns else None


class Stepped:
    turns = Turns()


class SteppedStore(Stepped, InventoriedMemoryStore):
    def put(self, key: str, data: bytes | BinaryIO, *, length: int = -1) -> None:
        with self.turns.operation():
            super().put(key, data, length=length)

    def list(self, prefix: str, *, after: str = "", limit: int | None = None) -> list[str]:
        with self.turns.operation():
            return super().list(prefix, after=after, limit=limit)

    def delete(self, key: str) -> None:
        with self.turns.operation():
            super().delete(key)


class SteppedJobs(Stepped, MemoryJobStore):
    def update(self, job_id: str, change: JobChange) -> Job:
        with self.turns.operation():
            return super().update(job_id, change)

    def delete(self, job_id: str) -> None:
        with self.turns.operation():
            super().delete(job_id)


class Site:
    """A job that was cancelled and, if `concluded`, archived by the process that cancelled it."""

    def __init__(self, *, concluded: bool) -> None:
        self.store, self.live, self.events = SteppedStore(), SteppedJobs(), MemoryEventLog()
        jobs = JobHistory(self.live, JobArchive(self.store))
        self.gateway = Gateway(self.store, jobs, self.events, MemoryJobQueue(), SETTINGS)
        spec = JobSpec(model="tiny", training_file="file-" + "0" * 24)
        self.job = Job(
            id=ID,
            spec=spec,
            status=JobStatus.CANCELLED,
            created_at=time.time(),
            finished_at=time.time(),
            owner=CALLER.name,
        )
        write_record(self.store, keys.job_spec_key(ID), spec)
        self.live.create(self.job)
        self.events.append(ID, "queued")
        if concluded:
            finalize(self.gateway, self.job)

    def delete(self) -> None:
        delete_job(self.gateway, self.gateway.jobs.get(ID), CALLER)

    def finalize(self) -> None:
        finalize(self.gateway, self.job)

    def evict(self) -> None:
        trimmer = MemoryEventTrimmer(self.events)
        buffer = self.gateway.shared.generation_buffer
        evictor = Evictor(self.live, self.events, trimmer, buffer, self.store)
        with contextlib.suppress(NotFound):  # as the sweeper does
            evictor.evict(self.job)

    def interleave(self, other: Callable[[], None], turns: Turns) -> None:
        self.store.turns = self.live.turns = turns
        failures: list[BaseException] = []

        def run(work: Callable[[], None]) -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)
            finally:
                turns.finish()

        works = {"delete": self.delete, "other": other}
        threads = [threading.Thread(target=run, args=(works[n],), name=n) for n in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.store.turns = self.live.turns = Turns()
        assert failures == []

    def check_gone(self) -> None:
        assert self.store.list("") == [archive_keys.deleted_job_key(ID)]
        assert self.events.read(ID) == []
        with pytest.raises(NotFound):
            self.gateway.jobs.get(ID)


def make_schedules(first: str, counts: dict[str, int]) -> Iterator[tuple[tuple[str, int], ...]]:
    """`first` is interrupted once, at each of its operations, and so is then the second one."""
    (second,) = {"delete", "other"} - {first}
    for begun in range(counts[first]):
        for during in range(1, counts[second] + 1):
            yield (first, begun), (second, during), (first, MOST_TURNS), (second, MOST_TURNS)


@pytest.mark.parametrize("first", ["delete", "other"])
@pytest.mark.parametrize(
    ("other", "concluded"), [("finalize", False), ("finalize", True), ("evict", True)]
)
def test_no_interleaving_brings_a_deleted_job_back(other: str, concluded: bool, first: str) -> None:
    alone = Turns(("other", MOST_TURNS), ("delete", MOST_TURNS))
    (undisturbed := Site(concluded=concluded)).interleave(getattr(undisturbed, other), alone)
    undisturbed.check_gone()
    assert min(alone.counts.values()) > 4, "too few operations to interleave"
    for schedule in make_schedules(first, alone.counts):
        site = Site(concluded=concluded)
        site.interleave(getattr(site, other), Turns(*schedule))
        try:
            site.check_gone()
        except BaseException as error:
            error.add_note(f"in the order {schedule}")
            raise


def test_a_snapshot_that_is_late_does_not_bring_a_deleted_job_back() -> None:
    """`qcrd rebuild` makes jobs of snapshots: a worker that was held up leaves none."""
    site = Site(concluded=True)
    site.delete()
    save_snapshot(site.store, site.job)
    site.check_gone()
