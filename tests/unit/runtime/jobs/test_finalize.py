"""The end of a job is told once and archived, whoever dies on the way. All on in-memory twins."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import pytest

from qcrd.errors import QcrdError, Transient
from qcrd.records.job import Event, Job, JobFailure, JobStatus, StoredFile
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime import keys
from qcrd.runtime.jobs.archive.event_archive import EventArchive
from qcrd.runtime.jobs.archive.job_archive import JobArchive
from qcrd.runtime.jobs.archive.job_history import JobHistory
from qcrd.runtime.jobs.commands import transition_job
from qcrd.runtime.jobs.finalize import finalize, finalize_pending
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.result_file import delete_result_file, get_result_file_id
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.storage.store import MemoryStore, read_record
from services.api.http.serializers import serialize_job


class FailingStore(MemoryStore):
    """Raises what `failure` makes of a key, until that is None."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: Callable[[str], QcrdError] | None = None
        self.tried = 0

    def put(self, key: str, data: bytes | BinaryIO, *, length: int = -1) -> None:
        self.tried += 1
        if self.failure is not None:
            raise self.failure(key)
        super().put(key, data, length=length)


@pytest.fixture
def store() -> FailingStore:
    return FailingStore()


@pytest.fixture
def deps(store: FailingStore) -> WorkerDeps:
    """As in a worker, jobs are those of the archive too."""
    jobs = JobHistory(MemoryJobStore(), JobArchive(store))
    return WorkerDeps(jobs, MemoryEventLog(), store, MemoryJobQueue())


def ended(deps: WorkerDeps, status: JobStatus = JobStatus.CANCELLED, number: int = 0) -> Job:
    """A job that was moved to its end by somebody who then died."""
    spec = JobSpec(model="tiny", training_file="file-" + "0" * 24)
    before = JobStatus.RUNNING if status is JobStatus.SUCCEEDED else JobStatus.QUEUED
    job = Job(id=f"ftjob-{number:024x}", spec=spec, status=before, created_at=time.time())
    deps.jobs.create(job)
    failure = JobFailure(message="no room", code="full") if status is JobStatus.FAILED else None
    return transition_job(deps.jobs, job.id, status, failure=failure)


def active(deps: WorkerDeps) -> list[str]:
    return [job.id for job in deps.jobs.iter_active()]


def archived(deps: WorkerDeps, job: Job) -> list[Event]:
    return list(EventArchive(deps.store).iter_events(job.id))


def test_a_job_whose_end_nobody_told_is_concluded_after_the_grace(deps: WorkerDeps) -> None:
    job = ended(deps, JobStatus.FAILED)
    assert job.finished_at is not None
    assert finalize_pending(deps, job.finished_at + 4.9) == []
    assert active(deps) == [job.id]
    assert deps.events.read(job.id) == []

    assert finalize_pending(deps, job.finished_at + 5.1) == [job.id]
    [last] = deps.events.read(job.id)
    assert (last.message, last.level) == ("The job failed: no room", "error")
    assert last.data == {"status": "failed"}
    assert archived(deps, job) == [last]
    assert deps.jobs.get(job.id).concluded
    assert active(deps) == []
    assert finalize_pending(deps, job.finished_at + 500) == []


def test_a_job_that_still_runs_is_never_concluded(deps: WorkerDeps) -> None:
    job = Job(
        id="ftjob-" + "b" * 24,
        spec=JobSpec(model="tiny", training_file="file-" + "0" * 24),
        status=JobStatus.PAUSED,
        created_at=0.0,
    )
    deps.jobs.create(job)
    assert finalize_pending(deps, time.time()) == []


def test_any_number_may_conclude_one_job_at_once(deps: WorkerDeps) -> None:
    job = ended(deps)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: finalize(deps, job), range(16)))
    [last] = deps.events.read(job.id)
    assert archived(deps, job) == [last]
    assert deps.jobs.get(job.id).concluded


def test_what_could_not_be_archived_is_archived_when_the_store_is_back(
    deps: WorkerDeps, store: FailingStore
) -> None:
    store.failure = lambda key: Transient("the store is full")
    jobs = [ended(deps, number=number) for number in range(5)]
    finalize(deps, jobs[0])
    assert [event.message for event in deps.events.read(jobs[0].id)] == ["The job was cancelled"]
    assert not deps.jobs.get(jobs[0].id).concluded

    store.tried = 0
    assert finalize_pending(deps, time.time() + 60) == []
    assert store.tried == 1, "a store that is away is asked once a round"
    assert all(len(deps.events.read(job.id)) == 1 for job in jobs), "all ends are told meanwhile"

    store.failure = None
    assert sorted(finalize_pending(deps, time.time() + 60)) == [job.id for job in jobs]
    assert all(len(archived(deps, job)) == 1 for job in jobs)
    assert active(deps) == []


def test_one_job_that_cannot_be_archived_holds_up_no_other(
    deps: WorkerDeps, store: FailingStore
) -> None:
    jobs = [ended(deps, number=number) for number in range(3)]

    class Refusing(FailingStore):
        def put(self, key: str, data: bytes | BinaryIO, *, length: int = -1) -> None:
            if jobs[1].id in key:
                raise QcrdError("the store refuses it")
            super().put(key, data, length=length)

    refusing = WorkerDeps(deps.jobs, deps.events, Refusing(), deps.queue)
    assert sorted(finalize_pending(refusing, time.time() + 60)) == [jobs[0].id, jobs[2].id]
    assert active(deps) == [jobs[1].id]


def test_a_job_deleted_while_it_is_concluded_leaves_nothing_behind(deps: WorkerDeps) -> None:
    job = ended(deps)
    deps.jobs.delete(job.id)
    finalize(deps, job)
    assert deps.events.read(job.id) == []
    assert deps.store.list("") == []


def test_a_long_history_is_archived_page_by_page(
    deps: WorkerDeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a page is read, no more than the one before it is still held."""
    job = ended(deps)
    for number in range(2_500):
        deps.events.append(job.id, str(number))
    read, pages = deps.events.read, list[list[weakref.ref[Event]]]()

    def read_page(job_id: str, after: str | None, limit: int) -> list[Event]:
        assert [ref for page in pages[:-1] for ref in page if ref() is not None] == []
        page = [event.model_copy() for event in read(job_id, after, limit)]
        pages.append([weakref.ref(event) for event in page])
        return page

    monkeypatch.setattr(deps.events, "read", read_page)
    finalize(deps, job)
    assert [len(page) for page in pages] == [1000, 1000, 501, 0]
    told = [event.message for event in archived(deps, job)]
    assert told == [*map(str, range(2_500)), "The job was cancelled"]


def test_a_succeeded_job_leaves_its_steps_as_a_file(deps: WorkerDeps) -> None:
    """In the order of its events; a step that was done again is there once, as it was then."""
    job = ended(deps, JobStatus.SUCCEEDED)
    steps = [("finetune", 1, 0.9), ("finetune", 2, 0.8), ("finetune", 2, 0.7), ("qcrd", 1, 0.5)]
    for method, step, loss in steps:
        data = {"method": method, "step": step, "iteration": 1, "loss": loss, "other": 1}
        deps.events.append(job.id, "step", type="metrics", data=data)
    told = {"method": "qcrd", "iteration": 1, "validation": 0.25}
    deps.events.append(job.id, "iteration", data=told)
    finalize(deps, job)
    file_id = get_result_file_id(job.id)
    stored = read_record(deps.store, keys.file_meta_key(file_id), StoredFile)
    assert (stored.purpose, stored.lines, stored.data.format) == ("fine-tune-results", 4, "csv")
    assert stored.blob is not None
    with deps.store.open(stored.blob) as data:
        assert data.read().decode().splitlines() == [
            "method,step,iteration,loss,learning_rate,validation_accuracy",
            "finetune,1,1,0.9,,",
            "finetune,2,1,0.7,,",
            "qcrd,1,1,0.5,,",
            "qcrd,,1,,,0.25",
        ]
    assert serialize_job(deps.jobs.get(job.id)).result_files == [file_id]
    delete_result_file(deps.store, job.id)
    assert list(deps.store.list(keys.file_prefix(file_id))) == []


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.SUCCEEDED])
def test_a_job_without_steps_or_success_leaves_none(deps: WorkerDeps, status: JobStatus) -> None:
    job = ended(deps, status)
    if status is not JobStatus.SUCCEEDED:
        data = {"method": "qcrd", "step": 1, "loss": 1.0}
        deps.events.append(job.id, "step", type="metrics", data=data)
    finalize(deps, job)
    assert list(deps.store.list(keys.FILES)) == []
