"""What goes from the object store, and what stays: each kind beside what is still needed of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from qcrd.errors import NotFound
from qcrd.records.job import Job, JobStatus, PublishedModel, StoredFile
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime import archive_keys, keys
from qcrd.runtime.jobs.archive.event_archive import EventArchive
from qcrd.runtime.jobs.archive.job_archive import JobArchive
from qcrd.runtime.jobs.state_machine import TERMINAL
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.event_trimming import MemoryEventTrimmer
from qcrd.runtime.redis.generation_buffer import AccountUpdate, MemoryGenerationBuffer
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.retention.eviction import Evictor
from qcrd.runtime.retention.sweeper import Sweeper
from qcrd.runtime.settings import RetentionSettings
from qcrd.runtime.storage.base_models import HALF_FETCHED_PREFIX, remove_half_fetched
from qcrd.runtime.storage.inventory import InventoriedMemoryStore, OpenUpload
from qcrd.runtime.storage.store import write_record

NOW = 1_800_000_000.0
DAY = 86400.0
SPEC = JobSpec(model="tiny", training_file="file-" + "0" * 24)
SETTINGS = RetentionSettings(events_days=90, generations_days=60)


class Room:
    """A store with a sweeper, and jobs of which it may know."""

    def __init__(self, settings: RetentionSettings = SETTINGS) -> None:
        self.store, self.jobs = InventoriedMemoryStore(), MemoryJobStore()
        self.events, self.buffer = MemoryEventLog(), MemoryGenerationBuffer()
        trimmer = MemoryEventTrimmer(self.events)
        evictor = Evictor(self.jobs, self.events, trimmer, self.buffer, self.store)
        self.sweeper = Sweeper(evictor, self.store, settings)

    def job(self, status: JobStatus, days_ago: float = 40.0) -> Job:
        job = Job(
            id=keys.new_id("ftjob"),
            spec=SPEC,
            status=status,
            created_at=NOW - 50 * DAY,
            finished_at=NOW - days_ago * DAY,
            concluded=status in TERMINAL,
        )
        self.jobs.create(job)
        self.put(keys.job_spec_key(job.id), 50)
        return job

    def put(self, key: str, days_ago: float) -> str:
        self.store.put(key, b"four")
        self.store.modified[key] = NOW - days_ago * DAY
        return key

    def sweep(self, *, dry_run: bool = False) -> dict[str, set[str]]:
        """Keys by kind."""
        gone: dict[str, set[str]] = {}
        for removal in self.sweeper.sweep_store(NOW, dry_run=dry_run):
            assert removal.reason
            assert removal.bytes == 4 * len(removal.keys)
            gone.setdefault(removal.kind, set()).update(removal.keys)
        return gone


@pytest.fixture
def room() -> Room:
    return Room()


LIVING = [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED]


def test_checkpoints_go_a_week_after_the_end_and_manifests_first(room: Room) -> None:
    def checkpoint(job: Job) -> list[str]:
        folder = f"{keys.checkpoint_prefix(job.id)}qcrd/"
        return [room.put(f"{folder}{name}", 50) for name in ("blobs/a", "states/1.json")]

    for status in LIVING:
        checkpoint(room.job(status))
    checkpoint(room.job(JobStatus.FAILED, days_ago=6))
    lost = Job(id=keys.new_id("ftjob"), spec=SPEC, created_at=0.0)
    checkpoint(lost)  # Redis was lost: nothing says that it ended
    old = [checkpoint(room.job(status)) for status in (JobStatus.FAILED, JobStatus.CANCELLED)]
    before = room.store.list("")
    planned = list(room.sweeper.sweep_store(NOW, dry_run=True))
    assert [removal.keys for removal in planned] == [tuple(pair[::-1]) for pair in sorted(old)]
    assert "failed 40 days ago" in planned[0].reason + planned[1].reason
    assert room.store.list("") == before, "a dry run deletes nothing"
    assert room.sweep() == {"checkpoints": {key for pair in old for key in pair}}
    assert room.sweep() == {}


def test_of_a_judge_the_newest_version_stays(room: Room) -> None:
    def judge(judge_id: str) -> list[str]:
        room.put(keys.judge_spec_key(judge_id), 50)
        return [
            room.put(f"{keys.judge_version_prefix(judge_id, version)}{name}", 50)
            for version in (1, 2, 3)
            for name in ("judge.json", "weights.safetensors")
        ]

    for status in LIVING:
        judge(room.job(status).id)
    judge(room.job(JobStatus.SUCCEEDED, days_ago=29).id)
    over = room.job(JobStatus.SUCCEEDED).id
    old = judge(over)
    for stray in (f"{keys.judge_prefix(over)}newest/judge.json", f"{keys.JUDGES}judge.json"):
        room.put(stray, 1)
    deleted = keys.new_id("ftjob")
    assert room.sweep() == {
        "judge versions": set(old[:4]),
    }
    gone = {*judge(deleted), keys.judge_spec_key(deleted)}
    assert room.sweep() == {"judge": gone}


def test_judges_of_answers_stay_while_their_model_does(room: Room) -> None:
    deleted = keys.new_id("ftjob")
    kept = PublishedModel(
        id=keys.make_model_id(deleted), job_id=deleted, created_at=0, base="b", files=()
    )
    write_record(room.store, keys.model_manifest_key(kept.id), kept)
    living = room.job(JobStatus.RUNNING)
    for job_id in (deleted, living.id):
        room.put(keys.judge_spec_key(keys.make_answer_judge_id(job_id)), 50)
    over = room.job(JobStatus.SUCCEEDED)
    gone = room.put(keys.judge_spec_key(keys.make_answer_judge_id(over.id)), 50)
    assert room.sweep() == {"judge": {gone}}


def test_files_of_students_that_were_never_published_go(room: Room) -> None:
    def student(job: Job, days_ago: float = 20) -> str:
        return room.put(f"{keys.model_prefix(keys.make_model_id(job.id))}w", days_ago)

    for status in LIVING:
        student(room.job(status))
    student(room.job(JobStatus.FAILED), days_ago=1)
    succeeded = room.job(JobStatus.SUCCEEDED)
    student(succeeded)
    room.put(keys.model_manifest_key(keys.make_model_id(succeeded.id)), 20)
    gone = student(room.job(JobStatus.FAILED))
    assert room.sweep() == {"model files": {gone}}


def test_uploads_that_no_file_describes_go(room: Room) -> None:
    described = room.put(keys.upload_key("upload-1"), 20)
    file = StoredFile(
        id="file-" + "1" * 24,
        filename="a",
        purpose="fine-tune",
        bytes=4,
        created_at=0,
        sha256="",
        lines=1,
        blob=described,
    )
    write_record(room.store, keys.file_meta_key(file.id), file)
    room.put(keys.upload_key("upload-2"), 0.9)
    gone = room.put(keys.upload_key("upload-3"), 1.1)
    broken = OpenUpload("uploads/upload-4", "x", NOW - 2 * DAY)
    room.store.open_uploads = [broken, OpenUpload("uploads/upload-5", "y", NOW - DAY / 2)]
    assert room.sweep() == {"upload parts": set(), "upload": {gone}}
    assert room.store.open_uploads == [OpenUpload("uploads/upload-5", "y", NOW - DAY / 2)]


def test_what_only_another_release_can_read_keeps_its_kind(room: Room) -> None:
    room.put(keys.upload_key("upload-1"), 20)
    room.store.put(keys.file_meta_key("file-" + "1" * 24), b'{"schema_version": "2.0"}')
    gone = room.put(f"{keys.checkpoint_prefix(room.job(JobStatus.FAILED).id)}x", 20)
    assert room.sweep() == {"checkpoints": {gone}}


def test_generations_stay_while_a_job_may_need_them(room: Room) -> None:
    def generations(teacher: str, job: Job, days_ago: float = 70) -> set[str]:
        shard = room.put(keys.generation_shard_key(teacher, "s", "1"), days_ago)
        return {shard, room.put(archive_keys.generation_use_key(teacher, "s", job.id), days_ago)}

    for status in LIVING:
        generations(f"of-{status.value}", room.job(status))
    generations("young", room.job(JobStatus.SUCCEEDED), days_ago=50)
    gone = generations("old", room.job(JobStatus.SUCCEEDED))
    assert room.sweep() == {"generations": gone}

    forever = Room(RetentionSettings())
    shard = forever.put(keys.generation_shard_key("t", "s", "1"), 700)
    users = [forever.job(JobStatus.SUCCEEDED) for _ in range(3)]
    marks = [
        forever.put(archive_keys.generation_use_key("t", "s", job.id), 10 - number)
        for number, job in enumerate(users)
    ]
    assert forever.sweep() == {"marks of use": set(marks[:2])}
    assert shard in forever.store.list("")


def test_archived_events_go_where_a_time_is_set_for_them(room: Room) -> None:
    def page(job: Job) -> str:
        return room.put(archive_keys.event_page_key(job.id, "1", "2"), 95)

    page(room.job(JobStatus.PAUSED, days_ago=95))
    page(room.job(JobStatus.FAILED, days_ago=80))
    gone = page(room.job(JobStatus.FAILED, days_ago=95))
    assert room.sweep() == {"events": {gone}}
    forever = Room(RetentionSettings())
    forever.put(archive_keys.event_page_key(forever.job(JobStatus.FAILED).id, "1", "2"), 900)
    assert forever.sweep() == {}


def test_ended_jobs_leave_redis_with_all_that_is_theirs(room: Room) -> None:
    old, young = room.job(JobStatus.FAILED), room.job(JobStatus.FAILED, days_ago=0.9)
    living = [room.job(status) for status in LIVING]
    by_batch = room.job(JobStatus.CANCELLED)
    room.put(keys.batch_shard_key(by_batch.id, "1"), 1)
    hook = SPEC.model_copy(update={"webhook": "https://a.example/"})
    for number, days in ((1, 3), (2, 5)):
        room.jobs.create(
            old.model_copy(
                update={
                    "id": f"ftjob-{number:024x}",
                    "spec": hook,
                    "finished_at": NOW - days * DAY,
                }
            )
        )
        room.put(keys.job_spec_key(f"ftjob-{number:024x}"), 50)
    told = [room.events.append(old.id, str(number)) for number in range(5)]
    room.buffer.update_account(AccountUpdate(old.id, {"spent": "1"}))
    dry = [removal.name for removal in room.sweeper.sweep_redis(NOW, dry_run=True)]
    assert sorted(dry) == sorted([old.id, f"ftjob-{2:024x}"])
    assert [removal.name for removal in room.sweeper.sweep_redis(NOW)] == dry
    assert room.events.read(old.id) == []
    assert room.buffer.read_account(old.id) == {}
    with pytest.raises(NotFound):
        room.jobs.get(old.id)
    for job in (young, by_batch, *living):
        assert room.jobs.get(job.id) == job
    assert EventArchive(room.store).read(old.id) == told
    assert JobArchive(room.store).find(old.id) == old
    assert list(room.sweeper.sweep_redis(NOW)) == []


def test_a_job_that_nobody_concluded_stays_where_the_reaper_finds_it(room: Room) -> None:
    """Its webhook, its result file and its report are still to be made."""
    job = room.job(JobStatus.SUCCEEDED)
    room.jobs.update(job.id, lambda job: job.model_copy(update={"concluded": False}))
    assert list(room.sweeper.sweep_redis(NOW)) == []
    room.jobs.update(job.id, lambda job: job.model_copy(update={"concluded": True}))
    assert [removal.name for removal in room.sweeper.sweep_redis(NOW)] == [job.id]


def test_a_job_that_is_deleted_while_it_is_evicted_does_not_come_back(room: Room) -> None:
    job = room.job(JobStatus.FAILED)
    room.events.append(job.id, "told")
    for removal in room.sweeper.evictor.iter_due(NOW, 0.0):
        assert removal.id == job.id
        JobArchive(room.store).mark_deleted(job.id)  # as a deletion begins, whose record goes last
        with pytest.raises(NotFound):
            room.sweeper.evictor.evict(removal)
    left = [archive_keys.deleted_job_key(job.id), keys.job_spec_key(job.id)]
    assert room.store.list("") == left
    assert room.jobs.get(job.id) == job, "the deletion itself removes it"


def test_marks_of_deleted_jobs_go_after_a_week(room: Room) -> None:
    mark, old = (archive_keys.deleted_job_key(keys.new_id("ftjob")) for _ in range(2))
    room.put(mark, 6.9)
    room.put(old, 7.1)
    assert room.sweep() == {"deletion mark": {old}}


def test_the_long_log_of_a_living_job_is_archived_from_its_beginning(room: Room) -> None:
    job, other = room.job(JobStatus.RUNNING), room.job(JobStatus.RUNNING)
    told = [room.events.append(job.id, str(number)) for number in range(60)]
    room.events.append(other.id, "short")
    assert room.sweeper.evictor.archive_long_logs(longest=50, kept=20) == [job.id]
    assert room.events.read(job.id) == told[40:]
    assert EventArchive(room.store).read(job.id) == told[:40]
    assert room.sweeper.evictor.archive_long_logs(longest=50, kept=20) == []


def test_half_fetched_folders_go_after_a_day(tmp_path: Path) -> None:
    folder = tmp_path
    for name, age in (("young", 3600.0), ("old", 2 * DAY)):
        scratch = folder / f"{HALF_FETCHED_PREFIX}{name}" / "model"
        scratch.mkdir(parents=True)
        (scratch / "weights").write_bytes(b"x")
        for path in (scratch / "weights", scratch, scratch.parent):
            os.utime(path, (time.time() - age, time.time() - age))
    (folder / "model-1").mkdir()
    remove_half_fetched(folder, time.time())
    assert {path.name for path in folder.iterdir()} == {f"{HALF_FETCHED_PREFIX}young", "model-1"}
