"""Redis is backed up under load, wiped and restored: jobs go on, and no answer is paid twice."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from typer.testing import CliRunner

from qcrd.cli.main import app
from qcrd.errors import Conflict, Invalid
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.rationales import RationaleManifest
from qcrd.runtime import archive_keys, keys, redis_keys
from qcrd.runtime.backup.restore import REBUILT, TOKENS_SKIPPED, rebuild_jobs, restore_backup
from qcrd.runtime.backup.snapshot import write_backup
from qcrd.runtime.jobs.archive.event_archive import EventArchive
from qcrd.runtime.jobs.archive.job_archive import JobArchive, save_snapshot
from qcrd.runtime.jobs.archive.open_history import open_event_history, open_job_history
from qcrd.runtime.jobs.finalize import finalize
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.event_log import RedisEventLog
from qcrd.runtime.redis.event_trimming import RedisEventTrimmer
from qcrd.runtime.redis.generation_buffer import RedisGenerationBuffer
from qcrd.runtime.settings import RedisSettings, StoreSettings
from qcrd.runtime.storage.inventory import InventoriedS3Store
from qcrd.runtime.storage.json_lines import write_lines
from qcrd.runtime.storage.store import read_record, write_record
from services.api.assembling.stage import assemble
from services.api.files import service as files
from services.api.jobs.create import parse_job_spec
from services.api.settings import TeacherConfig
from tests.fakes.scripted_teacher import Mood, ScriptedTeacher, Told
from tests.unit.api.assembling.assembling_bench import QUICK, adds
from tests.unit.api.gateway_client import lines, sums

QUESTIONS, SAMPLES = 12, 4


@dataclass
class Site:
    """Redis and the store, and a teacher that can be told to answer nobody for a while."""

    redis_settings: RedisSettings
    store: InventoriedS3Store
    stopping: threading.Event = field(default_factory=threading.Event)
    finished: Counter[str] = field(default_factory=Counter)
    is_busy: bool = False
    threads: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.redis: Redis = connect_redis(self.redis_settings)
        self.teacher = ScriptedTeacher(adds, mood=self.mood, delay=0.02, tell=self.tell)
        self.jobs = open_job_history(self.redis, self.store)
        self.events = open_event_history(self.redis, self.store)

    def mood(self, number: int) -> Mood:
        return "busy" if self.is_busy else "ok"

    def tell(self, what: Told, asked: dict[str, Any]) -> None:
        if what == "finished":
            self.finished[f"{asked['inputs']}|{asked['parameters']['seed']}"] += 1

    def job(self, number: int) -> Job:
        blob = files.write_blob(self.store, [lines(sums(QUESTIONS, 100 * number))], limit=1 << 20)
        training = files.publish_file(self.store, blob, filename="q.jsonl").id
        method = {"task": {"answer": "number"}, "rationales": {"n": SAMPLES}}
        spec = parse_job_spec(
            {
                "model": "tiny",
                "training_file": training,
                "method": {"type": "qcrd", "qcrd": method},
            }
        )
        job = Job(
            id=f"ftjob-{number:024x}",
            spec=spec,
            status=JobStatus.QUEUED,
            created_at=1.7e9 + number,
            budget=spec.budget,
        )
        write_record(self.store, keys.job_spec_key(job.id), spec)
        self.jobs.create(job)
        save_snapshot(self.store, job)
        return job

    def start(self, job_id: str, stopping: threading.Event) -> None:
        """A worker of its own, as another process is."""
        redis = connect_redis(self.redis_settings)
        deps = WorkerDeps(
            open_job_history(redis, self.store),
            open_event_history(redis, self.store),
            self.store,
            MemoryJobQueue(),
            is_stopping=stopping.is_set,
            heartbeat=0.3,
            ttl=30.0,
        )
        teachers = {"default": TeacherConfig(url=self.teacher.url, concurrency=4)}
        buffer = RedisGenerationBuffer(redis)
        thread = threading.Thread(
            target=run_stage,
            args=(deps, job_id, Stage.ASSEMBLING, lambda s: assemble(s, buffer, teachers, QUICK)),
        )
        thread.start()
        self.threads.append(thread)

    def quiet(self) -> None:
        """No answer is under way any more: what breaks off in one is paid for, and lost."""
        self.is_busy, seen = True, -1
        while seen != self.finished.total():
            seen = self.finished.total()
            time.sleep(0.5)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def join(self) -> None:
        for thread in self.threads:
            thread.join()
        self.threads.clear()


@pytest.fixture
def site(redis_settings: RedisSettings, fresh_s3_settings: StoreSettings) -> Iterator[Site]:
    site = Site(redis_settings, InventoriedS3Store(fresh_s3_settings))
    yield site
    site.stopping.set()
    site.join()
    site.teacher.close()


@pytest.mark.parametrize("case", ["workers are stopped first", "workers live on"])
def test_no_answer_is_paid_twice(site: Site, tmp_path: Path, case: str) -> None:
    jobs, file = [site.job(number) for number in range(3)], tmp_path / "backup"
    old = threading.Event()
    for job in jobs:
        site.start(job.id, old)
    site.until(lambda: site.finished.total() >= 20)
    events = {job.id: site.events.read(job.id, limit=1000) for job in jobs}
    if case == "workers are stopped first":
        write_backup(site.redis, file)  # answers come meanwhile
        site.until(lambda: site.finished.total() >= 30)
        site.quiet()
        old.set()
        site.join()
    else:
        site.quiet()
        write_backup(site.redis, file)
    assert site.finished.total() < 3 * QUESTIONS * SAMPLES, "the jobs are not done"
    site.redis.flushdb()
    restored = restore_backup(site.redis, site.store, file)
    assert sorted(restored.from_backup) == [job.id for job in jobs]
    site.join()  # of workers that live on: they have lost their leases
    site.is_busy = False

    for job in jobs:
        assert site.jobs.get(job.id).lease.token > TOKENS_SKIPPED
        site.start(job.id, site.stopping)
    site.join()
    for job in jobs:
        after = site.jobs.get(job.id)
        assert (after.stage, after.attempt) == (Stage.TRAINING, 0)
        assert after.rationale_set is not None
        manifest = read_record(
            site.store, keys.rationale_manifest_key(after.rationale_set), RationaleManifest
        )
        assert manifest.counts.outputs == QUESTIONS * SAMPLES
        assert site.events.read(job.id, limit=len(events[job.id])) == events[job.id] != []
    assert site.finished.total() == 3 * QUESTIONS * SAMPLES
    assert set(site.finished.values()) == {1}


def test_an_operator_backs_up_restores_and_sweeps(
    site: Site, fresh_s3_settings: StoreSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "QCRD_REDIS_URL": site.redis_settings.url,
        "QCRD_S3_ENDPOINT": fresh_s3_settings.endpoint,
        "QCRD_S3_ACCESS_KEY": fresh_s3_settings.access_key,
        "QCRD_S3_SECRET_KEY": fresh_s3_settings.secret_key.get_secret_value(),
        "QCRD_S3_BUCKET": fresh_s3_settings.bucket,
    }.items():
        monkeypatch.setenv(name, value)

    def qcrd(*arguments: str) -> str:
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == 0, done.output
        return done.output

    file = tmp_path / "backup"
    living, ended = site.job(1), site.job(2)
    deps = WorkerDeps(site.jobs, site.events, site.store, MemoryJobQueue())
    told = [site.events.append(living.id, str(number)) for number in range(5)]
    last = EventArchive(site.store).add_new(living.id, site.events, through=told[2].id)
    assert last == told[2].id
    RedisEventTrimmer(site.redis).trim(living.id, last)
    assert "keys of Redis" in qcrd("backup", str(file))

    cancelled = site.jobs.update(
        ended.id,
        lambda job: job.model_copy(
            update={"status": JobStatus.CANCELLED, "finished_at": time.time() - 2 * 86400}
        ),
    )
    finalize(deps, cancelled)
    told_of_end = site.events.read(ended.id)
    dry = qcrd("gc", "--dry-run")
    assert "job in Redis" in dry
    assert ended.id in dry
    assert site.redis.exists(redis_keys.job_key(ended.id))
    assert "1 thing went" in qcrd("gc")
    assert not site.redis.exists(redis_keys.job_key(ended.id))
    assert site.jobs.get(ended.id).status is JobStatus.CANCELLED
    assert site.events.read(ended.id) == told_of_end
    assert CliRunner().invoke(app, ["restore", str(file)]).exit_code != 0, "it is not empty"

    site.redis.flushdb()
    assert "1 jobs go on, 1 have ended, 0 are paused" in qcrd("restore", str(file))
    assert site.events.read(living.id) == told
    assert site.events.read(living.id, newest_first=True) == told[::-1]
    assert site.jobs.get(ended.id).status is JobStatus.CANCELLED, "it ended after the backup"
    assert site.events.read(ended.id) == told_of_end
    assert [job.id for job in site.jobs.list(None, 10)] == [ended.id, living.id]

    site.redis.flushdb()
    assert f"qcrd jobs resume {living.id}" in qcrd("rebuild")
    again = site.jobs.get(living.id)
    assert (again.status, again.paused_because) == (JobStatus.PAUSED, REBUILT)
    assert [job.id for job in site.jobs.list(None, 10)] == [ended.id, living.id]


def test_the_list_is_made_from_the_store_alone(site: Site) -> None:
    """Of jobs that an earlier release created there is a spec alone."""
    living, old, unreadable, deleted = (site.job(number) for number in range(4))
    running = site.jobs.update(living.id, lambda job: job.model_copy(update={"owner": "ann"}))
    save_snapshot(site.store, running)
    for key in site.store.list(keys.job_prefix(old.id)):
        if key != keys.job_spec_key(old.id):
            site.store.delete(key)
    site.store.put(f"{keys.job_prefix(unreadable.id)}job.json", b'{"schema_version": "2.0"}')
    for key in site.store.list(keys.job_prefix(deleted.id)):
        site.store.delete(key)
    site.redis.flushdb()
    restored = rebuild_jobs(site.redis, site.store)
    assert restored.from_store == [living.id, old.id]
    assert restored.unreadable == [unreadable.id]
    assert site.jobs.get(living.id).owner == "ann"
    assert site.jobs.get(old.id).spec == old.spec
    assert site.jobs.get(living.id).status is JobStatus.PAUSED
    again = rebuild_jobs(site.redis, site.store)
    assert again.from_store == [], "it makes none twice"
    assert JobArchive(site.store).list_places(None, 10) == []


def test_half_a_backup_is_refused(site: Site, tmp_path: Path) -> None:
    site.job(1)
    file = tmp_path / "backup"
    write_backup(site.redis, file)
    with pytest.raises(Conflict, match="FLUSHDB"):
        restore_backup(site.redis, site.store, file)
    site.redis.flushdb()
    for content in (file.read_bytes()[:-20], b"not one", b""):
        broken = tmp_path / "broken"
        broken.write_bytes(content)
        with pytest.raises(Invalid):
            restore_backup(site.redis, site.store, broken)
        assert site.redis.dbsize() == 0
    assert restore_backup(site.redis, site.store, file).from_backup


def test_what_was_deleted_since_the_backup_stays_deleted(site: Site, tmp_path: Path) -> None:
    kept, deleted, unreadable = (site.job(number) for number in range(3))
    write_backup(site.redis, file := tmp_path / "backup")
    assert file.stat().st_mode & 0o077 == 0
    for key in site.store.list(keys.job_prefix(deleted.id)):
        site.store.delete(key)
    site.store.put(archive_keys.job_record_key(unreadable.id), b'{"schema_version": "2.0"}')
    site.redis.flushdb()
    restored = restore_backup(site.redis, site.store, file)
    assert restored.from_backup == [kept.id]
    assert restored.deleted == [deleted.id]
    assert restored.unreadable == [unreadable.id]
    assert [job.id for job in site.jobs.iter_active()] == [kept.id]
    assert site.jobs.get(kept.id).sent_at is None, "the reaper sends its message at its first pass"


def test_an_event_told_while_the_backup_is_made_is_in_it_or_in_none(
    site: Site, tmp_path: Path
) -> None:
    """Between the look at a log and its reading: what is restored has one order."""
    job = site.job(0)
    site.events.append(job.id, "before")

    class Talkative(type(site.redis)):  # type: ignore[misc]
        def xrange(self, name: Any, *arguments: Any, **options: Any) -> Any:
            if len(site.events.read(job.id)) == 1:
                site.events.append(job.id, "meanwhile")
            return super().xrange(name, *arguments, **options)

    talkative = Talkative(connection_pool=site.redis.connection_pool)
    write_backup(talkative, file := tmp_path / "backup")
    site.redis.flushdb()
    restore_backup(site.redis, site.store, file)
    site.events.append(job.id, "after")
    assert [e.message for e in site.events.read(job.id)] == ["before", "meanwhile", "after"]


def test_events_archived_since_the_backup_are_before_what_is_told_next(
    site: Site, tmp_path: Path
) -> None:
    job = site.job(0)
    site.events.append(job.id, "in the backup")
    write_backup(site.redis, file := tmp_path / "backup")
    later = site.events.append(job.id, "archived since")
    ahead = later.model_copy(update={"id": "9999999999999-000000"})  # by a clock that was ahead
    live = RedisEventLog(site.redis)
    EventArchive(site.store).add_new(job.id, live)
    key = archive_keys.event_page_key(job.id, ahead.id, ahead.id)
    write_lines(site.store, key, [ahead])
    site.redis.flushdb()
    restore_backup(site.redis, site.store, file)
    site.events.append(job.id, "after")
    told = [event.message for event in site.events.read(job.id, limit=10)]
    assert told[-1] == "after"
    assert told[0] == "in the backup"
