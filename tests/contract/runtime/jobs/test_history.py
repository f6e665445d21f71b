"""Jobs and events that Redis no longer has are read from the store, in one order with others."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from qcrd.errors import Conflict, NotFound
from qcrd.records.job import Event, Job, JobStatus
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime import archive_keys, keys
from qcrd.runtime.jobs.archive.event_archive import EventArchive
from qcrd.runtime.jobs.archive.event_history import EventHistory
from qcrd.runtime.jobs.archive.job_archive import JobArchive
from qcrd.runtime.jobs.archive.job_history import JobHistory
from qcrd.runtime.jobs.finalize import finalize
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.event_log import EventLog, RedisEventLog
from qcrd.runtime.redis.event_trimming import EventTrimmer, MemoryEventTrimmer, RedisEventTrimmer
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.storage.json_lines import write_lines
from qcrd.runtime.storage.store import MemoryStore, Store

ID = "ftjob-" + "a" * 24
SPEC = JobSpec(model="tiny", training_file="file-" + "0" * 24)


@dataclass
class Log:
    live: EventLog
    trimmer: EventTrimmer
    archive: EventArchive
    history: EventHistory


@pytest.fixture(params=["memory", "redis"])
def log(request: pytest.FixtureRequest) -> Log:
    archive = EventArchive(MemoryStore(), page_size=100)
    live: EventLog
    trimmer: EventTrimmer
    if request.param == "memory":
        live = memory = MemoryEventLog()
        trimmer = MemoryEventTrimmer(memory)
    else:
        redis = connect_redis(request.getfixturevalue("redis_settings"))
        live, trimmer = RedisEventLog(redis), RedisEventTrimmer(redis)
    return Log(live, trimmer, archive, EventHistory(live, trimmer, archive))


def read_whole(log: EventLog, limit: int, *, newest_first: bool = False) -> list[Event]:
    """All events, by pages."""
    found: list[Event] = []
    while page := log.read(ID, found[-1].id if found else None, limit, newest_first=newest_first):
        assert len(page) <= limit
        found += page
    return found


@pytest.mark.parametrize("kept", ["all", "half", "last", "none"])
def test_every_event_is_read_once_wherever_it_is(log: Log, kept: str) -> None:
    made = [log.live.append(ID, str(number)) for number in range(230)]
    assert log.trimmer.count(ID) == len(made)
    if kept != "all":
        through = {"half": made[149], "last": made[-2], "none": made[-1]}[kept].id
        log.archive.add_new(ID, log.live, through=through)
        log.trimmer.trim(ID, through)
    for limit in (700, 90, 11):
        assert read_whole(log.history, limit) == made
        assert read_whole(log.history, limit, newest_first=True) == made[::-1]
    assert log.history.read(ID, made[-1].id) == []
    assert log.history.read(ID, made[0].id, newest_first=True) == []
    made.append(log.live.append(ID, "and one more"))
    assert read_whole(log.history, 90) == made
    assert log.history.read(ID, made[-2].id, block_ms=10) == made[-1:]
    assert log.history.watch({ID: made[-2].id}, 10) == {ID: made[-1:]}


def test_a_log_that_grew_meanwhile_is_not_deleted(log: Log) -> None:
    first = log.live.append(ID, "first")
    last = log.archive.add_new(ID, log.live)
    assert last == first.id
    late = log.live.append(ID, "late")
    assert not log.trimmer.delete_through(ID, last)
    last = log.archive.add_new(ID, log.live)
    assert last == late.id
    assert log.trimmer.delete_through(ID, last)
    assert log.trimmer.find_start(ID) is None
    assert log.live.read(ID) == []
    assert log.history.read(ID) == [first, late]
    log.history.delete(ID)
    assert log.history.read(ID) == []


def test_pages_that_two_processes_wrote_are_read_once(log: Log) -> None:
    """The second one archived with what was told in between."""
    other = EventArchive(store := MemoryStore())
    made = [log.live.append(ID, str(number)) for number in range(3)]
    for first, last in ((0, 1), (0, 2), (1, 2)):
        page = made[first : last + 1]
        write_lines(store, archive_keys.event_page_key(ID, page[0].id, page[-1].id), page)
    assert other.read(ID) == made
    assert other.read(ID, newest_first=True) == made[::-1]


def test_an_archive_of_an_earlier_release_is_read(log: Log) -> None:
    archive = EventArchive(store := MemoryStore())
    made = [log.live.append(ID, str(number)) for number in range(5)]
    write_lines(store, keys.job_events_key(ID), made)
    assert archive.read(ID, made[1].id, 2) == made[2:4]
    assert archive.read(ID, made[3].id, 2, newest_first=True) == [made[2], made[1]]
    assert archive.find_newest(ID) is None, "it is archived anew, by pages"


def make_job(number: int, created_at: float) -> Job:
    job_id = f"ftjob-{number:024x}"
    return Job(id=job_id, spec=SPEC, status=JobStatus.CANCELLED, created_at=created_at)


def evict(jobs: JobStore, archive: JobArchive, job: Job) -> None:
    archive.save(job.model_copy(update={"concluded": True}))
    jobs.delete(job.id)


def test_the_list_of_all_jobs_has_one_order(jobs: JobStore, store: Store) -> None:
    """Whatever is archived: of jobs of the same moment too, and with any page size."""
    archive = JobArchive(store)
    history = JobHistory(jobs, archive)
    made = [make_job(number, 1.7e9 + number // 3 + 1e-6 * (number % 2)) for number in range(24)]
    for job in made:
        history.create(job)
    expected = [job.id for job in history.list(None, 100)]
    assert set(expected) == {job.id for job in made}
    for number in (0, 1, 2, 5, 9, 10, 17, 23):
        evict(jobs, archive, made[number])
    archive.save(made[11])  # archived, and still in Redis
    for limit in (1, 5, 24):
        listed: list[str] = []
        while page := history.list(listed[-1] if listed else None, limit):
            listed += [job.id for job in page]
        assert listed == expected
    with pytest.raises(NotFound):
        history.list("ftjob-" + "f" * 24, 5)


def test_an_archived_job_is_there_and_ended(jobs: JobStore, store: Store) -> None:
    archive = JobArchive(store)
    history = JobHistory(jobs, archive)
    history.create(job := make_job(1, 5.0))
    evict(jobs, archive, job)
    found = history.get(job.id)
    assert found.concluded
    with pytest.raises(Conflict):
        history.create(job)
    usage = job.usage.model_copy(update={"teacher_prompt_tokens": 7})
    assert (
        history.update(job.id, lambda one: one.model_copy(update={"usage": usage})).usage == usage
    )
    assert history.get(job.id).usage == usage
    history.delete(job.id)
    assert store.list("") == []
    with pytest.raises(NotFound):
        history.get(job.id)


def test_a_job_is_concluded_with_all_that_is_read_of_it_later(store: Store) -> None:
    deps = WorkerDeps(MemoryJobStore(), MemoryEventLog(), store, MemoryJobQueue())
    deps.jobs.create(job := make_job(1, 5.0))
    finalize(deps, job)
    assert JobArchive(store).find(job.id) == deps.jobs.get(job.id)
    assert EventArchive(store).read(job.id) == deps.events.read(job.id)
