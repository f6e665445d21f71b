"""Makes jobs of a backup, or of what the object store alone has, in an empty Redis."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis

from qcrd.errors import Conflict, NotFound, UnreadableRecord
from qcrd.records.job import Job, JobStatus, Lease
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime import archive_keys, keys, redis_keys
from qcrd.runtime.backup.snapshot import Entry, order_id, read_backup
from qcrd.runtime.jobs.archive.event_archive import EventArchive
from qcrd.runtime.jobs.archive.job_archive import JobArchive
from qcrd.runtime.jobs.state_machine import TERMINAL, with_changes
from qcrd.runtime.jobs.store import parse_job
from qcrd.runtime.jobs.stores.redis_store import RedisJobStore
from qcrd.runtime.redis.connection import translate_redis_errors
from qcrd.runtime.redis.event_log import parse_event_id
from qcrd.runtime.redis.event_trimming import RedisEventTrimmer
from qcrd.runtime.storage.inventory import InventoriedStore
from qcrd.runtime.storage.store import find_readable_record

TOKENS_SKIPPED = 1_000_000
"""Added to the token of a restored job's lease: workers that had it since the backup, and may
still run, have smaller ones, and write nothing any more."""
REBUILT = (
    "made from the object store alone, as Redis was lost: what it had spent since it last told is "
    "not in its budget; resume it"
)


@dataclass
class Restored:
    """Ids of the jobs that were made, by where they are from, and what could not be read."""

    from_backup: list[str] = field(default_factory=list)
    from_store: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    """Jobs that have ended: the store has them, and needs no Redis to list them."""
    unreadable: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    """Jobs that were deleted since the backup, of which the store has nothing."""


def restore_backup(redis: Redis, store: InventoriedStore, path: Path) -> Restored:
    """Write a backup into a Redis without jobs, then make the jobs that the store has and the
    backup lacks. `Conflict` when there are jobs; `Invalid` for a file that is no whole backup."""
    check_empty(redis)
    jobs, restored = RedisJobStore(redis), Restored()
    for entry in read_backup(path):
        if entry.key.startswith(redis_keys.job_key("")):
            _restore_job(jobs, store, entry, restored)
        else:
            write_entry(redis, entry)
    for job_id in (*restored.ended, *restored.deleted):
        # The store has all of them, or they are not to be had any more.
        redis.delete(redis_keys.events_key(job_id), redis_keys.emitted_once_key(job_id))
    for job_id in restored.from_backup:
        # Events that were archived since the backup are behind those that it has.
        if (newest := EventArchive(store).find_newest(job_id)) is not None:
            RedisEventTrimmer(redis).trim(job_id, newest)
            _raise_last_id(redis, redis_keys.events_key(job_id), newest)
    rebuild_jobs(redis, store, restored)
    return restored


def _raise_last_id(redis: Redis, key: str, event_id: str) -> None:
    """What is appended from now on comes behind the event of that id."""
    newest = parse_event_id(event_id)
    with translate_redis_errors():
        if redis.exists(key) and order_id(redis.xinfo_stream(key)["last-generated-id"]) < newest:
            redis.execute_command("XSETID", key, f"{newest[0]}-{newest[1]}")


def check_empty(redis: Redis) -> None:
    with translate_redis_errors():
        count = redis.zcard(redis_keys.JOBS)
    if count:
        raise Conflict(
            f"Redis has {count} jobs: a backup goes into an empty one. Stop the services, empty it "
            "(FLUSHDB), then restore"
        )


def _restore_job(
    jobs: RedisJobStore, store: InventoriedStore, entry: Entry, restored: Restored
) -> None:
    job_id = entry.key.removeprefix(redis_keys.job_key(""))
    try:
        job = parse_job(job_id, entry.value)
        ended = JobArchive(store).find(job_id)
    except UnreadableRecord:
        restored.unreadable.append(job_id)
        return
    if ended is not None:
        restored.ended.append(job_id)  # whatever the backup says, it has ended since
        return
    if not store.list(keys.job_prefix(job_id), limit=1):
        restored.deleted.append(job_id)  # its spec is there from before its creation on
        return
    # No message names it: without `sent_at` the reaper sends one at its first pass.
    token = job.lease.token + TOKENS_SKIPPED
    jobs.create(with_changes(job, lease=Lease(token=token), gpus=0, sent_at=None))
    restored.from_backup.append(job_id)


def write_entry(redis: Redis, entry: Entry) -> None:
    """Replace the key by what the backup has of it."""
    with translate_redis_errors(), redis.pipeline() as pipe:
        pipe.delete(entry.key)
        _queue_value(pipe, entry)
        if entry.seconds is not None:
            pipe.pexpire(entry.key, int(entry.seconds * 1000))
        pipe.execute()


def _queue_value(pipe: Any, entry: Entry) -> None:
    match entry.type:
        case "string":
            pipe.set(entry.key, entry.value)
        case "hash":
            pipe.hset(entry.key, mapping=entry.value)
        case "zset":
            pipe.zadd(entry.key, dict(entry.value))
        case "stream":
            last, added = entry.value["last"], entry.value["added"]
            for event_id, fields in entry.value["entries"] or [(last, {"event": "{}"})]:
                pipe.xadd(entry.key, fields, id=event_id)
            if not entry.value["entries"]:
                pipe.xtrim(entry.key, maxlen=0, approximate=False)
            counts = ("ENTRIESADDED", max(added, len(entry.value["entries"])))
            pipe.execute_command("XSETID", entry.key, last, *counts, "MAXDELETEDID", "0-0")


def rebuild_jobs(
    redis: Redis, store: InventoriedStore, restored: Restored | None = None
) -> Restored:
    """Make the jobs that the store has and Redis lacks: ended ones are listed from there anyway,
    the others are `paused` until somebody resumes them."""
    restored = restored or Restored()
    jobs, archive = RedisJobStore(redis), JobArchive(store)
    seen = {*restored.from_backup, *restored.ended, *restored.unreadable, *restored.deleted}
    for job_id in archive.list_ids():
        if job_id in seen or jobs.find_place(job_id) is not None:
            continue
        try:
            ended = archive.find(job_id)
        except UnreadableRecord:
            restored.unreadable.append(job_id)
            continue
        if ended is not None:
            try:
                archive.save(ended)  # with its place in the list, should that be missing
            except NotFound:
                restored.deleted.append(job_id)
                continue
            restored.ended.append(job_id)
        elif (job := _make_job(store, job_id)) is not None:
            jobs.create(job)
            restored.from_store.append(job_id)
    return restored


def _make_job(store: InventoriedStore, job_id: str) -> Job | None:
    """A paused job, as its last snapshot has it; of an earlier release, as its spec has it. None
    for one whose creation was not finished, or that cannot be read."""
    job = find_readable_record(store, archive_keys.job_snapshot_key(job_id), Job)
    if job is None:
        spec = find_readable_record(store, keys.job_spec_key(job_id), JobSpec)
        report = store.list(keys.job_report_key(job_id), limit=1)
        if spec is None or report:
            return None
        objects = store.list_objects(keys.job_spec_key(job_id))
        job = Job(id=job_id, spec=spec, budget=spec.budget, created_at=objects[0].modified)
    if job.status in TERMINAL:
        return None
    lease = Lease(token=job.lease.token + TOKENS_SKIPPED)
    changes = {"status": JobStatus.PAUSED, "paused_because": REBUILT, "lease": lease, "gpus": 0}
    return with_changes(job, **changes)
