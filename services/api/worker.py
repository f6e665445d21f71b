"""The gateway's Celery worker: assembles rationale sets, reaps jobs that nobody works on, and
delivers webhooks.

Run by `celery -A services.api.worker worker -Q assemble -c 1 --pool=threads`, which wants `app` as
an attribute of the module. Building it connects to nothing.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from celery.signals import setup_logging, worker_init, worker_ready, worker_shutting_down
from redis import Redis

from qcrd.records.job import Stage
from qcrd.runtime import keys
from qcrd.runtime.jobs.finalize import finalize_pending
from qcrd.runtime.jobs.queue import CeleryJobQueue, create_celery_app
from qcrd.runtime.jobs.reaper import reap_jobs
from qcrd.runtime.jobs.stage_context import NextStage, StageContext, WorkerDeps
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.jobs.state_machine import STAGE_TASKS
from qcrd.runtime.jobs.store import RedisJobStore
from qcrd.runtime.redis.connection import connect_redis, translate_redis_errors
from qcrd.runtime.redis.counters import RedisCounters
from qcrd.runtime.redis.event_log import RedisEventLog
from qcrd.runtime.redis.generation_buffer import RedisGenerationBuffer
from qcrd.runtime.redis.webhook_queue import RedisWebhookQueue
from qcrd.runtime.settings import (
    LogSettings,
    RecoverySettings,
    RedisSettings,
    StoreSettings,
    load_settings,
)
from qcrd.runtime.storage.store import open_store
from qcrd.runtime.telemetry import configure_logging, log_exceptions
from services.api.assembling.stage import assemble
from services.api.assembling.teacher_client import install_http_client_factory
from services.api.settings import TeacherSettings
from services.api.webhooks.sender import deliver_forever
from services.api.webhooks.signing import WebhookSettings

log = logging.getLogger(__name__)

stop_event = threading.Event()
app = create_celery_app(load_settings(RedisSettings))


@dataclass(frozen=True)
class WorkerContext:
    """What the tasks of this process share, built at the first of them."""

    redis: Redis = field(default_factory=lambda: connect_redis(RedisSettings()))
    teachers: TeacherSettings = field(default_factory=TeacherSettings)
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)
    recovery: RecoverySettings = field(default_factory=RecoverySettings)

    def make_deps(self) -> WorkerDeps:
        return WorkerDeps(
            jobs=RedisJobStore(self.redis),
            events=RedisEventLog(self.redis),
            store=open_store(StoreSettings()),
            queue=CeleryJobQueue(app),
            counters=RedisCounters(self.redis),
            webhook_queue=RedisWebhookQueue(self.redis),
            is_stopping=stop_event.is_set,
            heartbeat=self.recovery.heartbeat_seconds,
            ttl=self.recovery.lease_seconds,
        )

    def run_assembling(self, stage: StageContext) -> NextStage:
        return assemble(stage, RedisGenerationBuffer(self.redis), self.teachers.teachers)


@lru_cache(maxsize=1)
def get_worker_context() -> WorkerContext:
    return WorkerContext()


def assemble_job(job_id: str) -> None:
    run_stage(
        get_worker_context().make_deps(),
        job_id,
        Stage.ASSEMBLING,
        get_worker_context().run_assembling,
    )


def reap_forever() -> None:
    """Every worker of this kind runs it; the lock lets one of them at a time do the work."""
    redis, deps, owner = (
        get_worker_context().redis,
        get_worker_context().make_deps(),
        secrets.token_hex(8),
    )
    interval = get_worker_context().recovery.reap_seconds
    while not stop_event.wait(interval):
        with log_exceptions("cannot look for abandoned jobs"):
            with translate_redis_errors():
                is_leader = redis.set(keys.REAPER_LOCK, owner, nx=True, px=int(interval * 900))
            if is_leader:
                _reap_once(deps, get_worker_context().recovery.resend_seconds)


def _reap_once(deps: WorkerDeps, resend_seconds: float) -> None:
    for job_id in reap_jobs(deps.jobs, deps.queue, time.time(), resend_after=resend_seconds):
        log.warning("sent again: nobody worked on it", extra={"data": {"job_id": job_id}})
    for job_id in finalize_pending(deps, time.time()):
        log.warning("concluded: nobody had", extra={"data": {"job_id": job_id}})


def configure_json_logging(**_: Any) -> None:
    configure_logging("api-worker", LogSettings().level)
    # A line for each of ten thousand prompts says less than the job's own events.
    logging.getLogger("httpx2").setLevel(logging.WARNING)


def deliver_webhooks() -> None:
    """Every worker of this kind delivers webhooks; none gets what another one has taken."""
    asyncio.run(
        deliver_forever(get_worker_context().make_deps(), get_worker_context().webhooks, stop_event)
    )


def check_environment(**_: Any) -> None:
    """Before the first message is taken, which would be used up by a worker that cannot work."""
    load_settings(LogSettings)
    load_settings(lambda: get_worker_context().make_deps())


def start_background_threads(**_: Any) -> None:
    install_http_client_factory()
    threading.Thread(target=reap_forever, name="reaper", daemon=True).start()
    if get_worker_context().webhooks.hosts:
        threading.Thread(target=deliver_webhooks, name="deliverer", daemon=True).start()


def request_stop(**_: Any) -> None:
    stop_event.set()


app.task(name=STAGE_TASKS[Stage.ASSEMBLING])(assemble_job)
setup_logging.connect(configure_json_logging)
worker_init.connect(check_environment)
worker_ready.connect(start_background_threads)
worker_shutting_down.connect(request_stop)
