"""The gateway's Celery worker: assembles rationale sets, reaps jobs whose lease expired, ends the
batches of jobs that have ended, removes what is no longer needed, looks how the teachers are,
delivers webhooks.

Run by `celery -A services.api.worker worker -Q assemble -c 4 --pool=threads`: assembling waits for
teachers most of the time, so that one worker assembles several jobs, and a long one holds up none.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Collection
from contextlib import suppress

from redis import Redis

from qcrd.errors import UnreadableRecord
from qcrd.records.job import Stage
from qcrd.runtime import redis_keys
from qcrd.runtime.jobs.celery_worker import StageWorker
from qcrd.runtime.jobs.finalize import finalize_pending
from qcrd.runtime.jobs.reaper import (
    HeldLease,
    LeaseWatch,
    alarm_unreadable,
    list_held,
    reap_jobs,
)
from qcrd.runtime.jobs.stage_context import NextStage, StageContext, WorkerDeps
from qcrd.runtime.redis.asking_turns import RedisAskingTurns
from qcrd.runtime.redis.connection import translate_redis_errors
from qcrd.runtime.redis.generation_buffer import RedisGenerationBuffer
from qcrd.runtime.redis.memory import RedisMemory, read_redis_memory
from qcrd.runtime.redis.teacher_notes import RedisTeacherNotes
from qcrd.runtime.retention.sweeper import Sweeper, make_sweeper
from qcrd.runtime.settings import RecoverySettings, RetentionSettings, StoreSettings
from qcrd.runtime.storage.inventory import open_inventoried_store
from qcrd.runtime.telemetry import log_exceptions
from services.api.assembling.batches.sweep import BatchSweeper
from services.api.assembling.stage import assemble
from services.api.assembling.teacher.teacher_check import TeacherChecker
from services.api.assembling.teacher.tgi_client import install_http_client_factory
from services.api.files.service import delete_expired_files
from services.api.settings import TeacherSettings
from services.api.webhooks.sender import deliver_forever
from services.api.webhooks.signing import WebhookSettings

log = logging.getLogger(__name__)

TEACHER_CHECK_SECONDS, RECHECK_SECONDS = 60.0, 10.0
"""Between two looks at the teachers, and while one of them is away or refuses."""
EXPIRY_PASS_SECONDS = 300.0
"""Between two looks at the names of all files, for those whose time is over."""
EVICTION_SECONDS, SWEEP_SECONDS = 60.0, 3600.0
"""Between two passes over the ended jobs in Redis, and over the whole object store."""


def run_assembling(stage: StageContext) -> NextStage:
    return assemble(
        stage,
        RedisGenerationBuffer(worker.redis),
        TeacherSettings().teachers,
        notes=RedisTeacherNotes(worker.redis),
        turns=RedisAskingTurns(worker.redis),
    )


def check_settings() -> None:
    TeacherSettings()
    WebhookSettings()
    RetentionSettings()


def reap_forever(
    redis: Redis, deps: WorkerDeps, recovery: RecoverySettings, stop_event: threading.Event
) -> None:
    """Run the reaper: every assembling worker does, under a lock one of them at a time. Each of
    them watches the leases, so that any of them knows for how long a worker has been silent."""
    interval = recovery.reap_seconds
    watch = LeaseWatch(heartbeat=deps.heartbeat, ttl=deps.ttl)
    while not stop_event.wait(interval):
        with log_exceptions("the reaper's pass failed, the next one follows"):
            expired = watch.look(list_held(deps.jobs), deps.jobs.now())
            if _take_lock(redis, redis_keys.REAPER_LOCK, interval):
                _reap_once(deps, recovery.resend_seconds, expired)
                if _take_lock(redis, redis_keys.MEMORY_ALARM_LOCK, EVICTION_SECONDS):
                    alarm_full_redis(deps, read_redis_memory(redis))
                if _take_lock(redis, redis_keys.FILE_EXPIRY_LOCK, EXPIRY_PASS_SECONDS):
                    _delete_expired_files(deps)


def _delete_expired_files(deps: WorkerDeps) -> None:
    for file_id in delete_expired_files(deps.store, deps.jobs, time.time()):
        log.info("file deleted: its time was over", extra={"data": {"file_id": file_id}})


def alarm_full_redis(deps: WorkerDeps, memory: RedisMemory) -> None:
    """Say so long before it is full: in the log, and once in the events of each living job."""
    if not memory.is_alarming:
        return
    log.error("%s", memory.describe())
    for job in deps.jobs.iter_active():
        data = {"redis_memory": memory.used, "redis_memory_limit": memory.limit}
        text, once = memory.describe(), "redis-memory"
        with suppress(UnreadableRecord):  # a damaged log keeps nothing from the others
            deps.events.append(job.id, text, level="warn", data=data, once=once)


def sweep_forever(
    redis: Redis,
    sweeper: Sweeper,
    stop_event: threading.Event,
    *,
    seconds: float = EVICTION_SECONDS,
    store_seconds: float = SWEEP_SECONDS,
) -> None:
    """Move ended jobs out of Redis, and remove what is no longer needed from the store: under a
    lock one worker at a time, apart from the reaper, as a pass over a large store takes minutes."""
    while not stop_event.wait(seconds):
        with log_exceptions("the sweeper's pass failed, the next one follows"):
            if _take_lock(redis, redis_keys.SWEEPER_LOCK, seconds):
                with_store = _take_lock(redis, redis_keys.STORE_SWEEPER_LOCK, store_seconds)
                sweep_once(sweeper, with_store=with_store)


def sweep_once(sweeper: Sweeper, *, with_store: bool) -> None:
    for job_id in sweeper.evictor.archive_long_logs():
        log.info("older events archived", extra={"data": {"job_id": job_id}})
    removals = list(sweeper.sweep_redis(time.time()))
    if with_store:
        for removal in sweeper.sweep_store(time.time()):
            log.info("removed %s of %s: %s", removal.kind, removal.name, removal.reason)
    if removals:
        log.info("%d ended jobs moved from Redis to the store", len(removals))


def sweep_batches_forever(
    redis: Redis, sweeper: BatchSweeper, interval: float, stop_event: threading.Event
) -> None:
    """End the batches of jobs that have ended; in the same way, in a thread of its own, as it waits
    for teachers."""
    while not stop_event.wait(interval):
        with log_exceptions("the pass over batches failed, the next one follows"):
            if _take_lock(redis, redis_keys.BATCH_SWEEPER_LOCK, interval):
                sweeper.sweep()


def check_teachers_forever(
    redis: Redis,
    checker: TeacherChecker,
    stop_event: threading.Event,
    *,
    seconds: float = TEACHER_CHECK_SECONDS,
    recheck_seconds: float = RECHECK_SECONDS,
) -> None:
    """Look how the teachers are: every worker when it starts, then one of them at a time, and
    sooner while one of the teachers is not well."""
    is_well = False
    with log_exceptions("the first look at the teachers failed, another one follows"):
        is_well = checker.check()
    while not stop_event.wait(pause := seconds if is_well else recheck_seconds):
        with log_exceptions("the look at the teachers failed, the next one follows"):
            if _take_lock(redis, redis_keys.TEACHER_CHECK_LOCK, pause):
                is_well = checker.check()


def _take_lock(redis: Redis, key: str, interval: float) -> bool:
    """Whether nobody else has it for the next pass, in `interval` seconds."""
    milliseconds = int(interval * 900)
    with translate_redis_errors():
        if redis.set(key, secrets.token_hex(8), nx=True, px=milliseconds):
            return True
        # Redis keeps the moment at which a key expires: once its clock was set back by an hour, the
        # lock would be held for an hour more.
        if redis.pttl(key) > milliseconds:
            redis.pexpire(key, milliseconds)
        return False


def _reap_once(deps: WorkerDeps, resend_seconds: float, expired: Collection[HeldLease]) -> None:
    now = deps.jobs.now()
    for reaped in reap_jobs(
        deps.jobs, deps.queue, now, expired=expired, resend_after=resend_seconds
    ):
        log.warning("job re-enqueued: %s", reaped.reason, extra={"data": {"job_id": reaped.job_id}})
    for job_id, reason in alarm_unreadable(deps.jobs, deps.events).items():
        log.error("job set aside: %s", reason, extra={"data": {"job_id": job_id}})
    for job_id in finalize_pending(deps, now):
        log.warning(
            "job finalized: it had ended, and its worker stopped before archiving it",
            extra={"data": {"job_id": job_id}},
        )


def start_background_threads() -> None:
    """Start the reaper, what ends batches and, where webhooks may be sent, their delivery."""
    install_http_client_factory()
    arguments = (worker.redis, worker.deps, RecoverySettings(), worker.stop_event)
    threading.Thread(target=reap_forever, args=arguments, name="reaper", daemon=True).start()
    start_sweeper()
    start_batch_sweeper(RecoverySettings().reap_seconds)
    start_teacher_checks()
    if WebhookSettings().hosts:
        threading.Thread(target=deliver_webhooks, name="webhooks", daemon=True).start()


def start_sweeper() -> None:
    store = open_inventoried_store(StoreSettings())
    sweeper = make_sweeper(worker.redis, store, RetentionSettings())
    arguments = (worker.redis, sweeper, worker.stop_event)
    threading.Thread(target=sweep_forever, args=arguments, name="sweeper", daemon=True).start()


def start_batch_sweeper(interval: float) -> None:
    """Where a teacher may have batches."""
    teachers = TeacherSettings().teachers
    if not any(teacher.api == "openai" for teacher in teachers.values()):
        return
    buffer, deps = RedisGenerationBuffer(worker.redis), worker.deps
    sweeper = BatchSweeper(deps.jobs, deps.store, buffer, teachers)
    arguments = (worker.redis, sweeper, interval, worker.stop_event)
    threading.Thread(
        target=sweep_batches_forever, args=arguments, name="batches", daemon=True
    ).start()


def start_teacher_checks() -> None:
    checker = TeacherChecker(TeacherSettings().teachers, RedisTeacherNotes(worker.redis))
    arguments = (worker.redis, checker, worker.stop_event)
    threading.Thread(
        target=check_teachers_forever, args=arguments, name="teachers", daemon=True
    ).start()


def deliver_webhooks() -> None:
    """Deliver webhooks: every assembling worker does, each delivery is claimed by one of them."""
    asyncio.run(deliver_forever(worker.deps, WebhookSettings(), worker.stop_event))


worker = StageWorker(
    "api-worker",
    Stage.ASSEMBLING,
    run_assembling,
    prepare=check_settings,
    on_ready=start_background_threads,
)
app = worker.app
