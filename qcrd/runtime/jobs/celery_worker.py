"""The Celery worker of one stage: its app, its task, and what the task runs on.

Celery takes the app from an attribute of the worker's module; building it connects to nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any

from celery.signals import (
    heartbeat_sent,
    setup_logging,
    worker_init,
    worker_ready,
    worker_shutting_down,
)
from redis import Redis

from qcrd.records.job import Stage
from qcrd.runtime.jobs.archive.open_history import open_event_history, open_job_history
from qcrd.runtime.jobs.queue import CeleryJobQueue, JobQueue, create_celery_app
from qcrd.runtime.jobs.stage_context import StageWork, WorkerDeps
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.jobs.state_machine import STAGE_TASKS
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.counters import RedisCounters
from qcrd.runtime.redis.webhook_queue import RedisWebhookQueue
from qcrd.runtime.settings import (
    LivenessSettings,
    LogSettings,
    RecoverySettings,
    RedisSettings,
    StoreSettings,
    load_settings,
)
from qcrd.runtime.storage.store import open_store
from qcrd.runtime.telemetry import configure_logging


def make_worker_deps(redis: Redis, queue: JobQueue, stop_event: threading.Event) -> WorkerDeps:
    """What a worker, or a process that works for one, runs on: the real servers."""
    recovery, store = RecoverySettings(), open_store(StoreSettings())
    return WorkerDeps(
        jobs=open_job_history(redis, store),
        events=open_event_history(redis, store),
        store=store,
        queue=queue,
        counters=RedisCounters(redis),
        webhook_queue=RedisWebhookQueue(redis),
        is_stopping=stop_event.is_set,
        heartbeat=recovery.heartbeat_seconds,
        ttl=recovery.lease_seconds,
    )


class StageWorker:
    """Runs `work` for the jobs of `stage`. `prepare` makes whatever else the work needs, which
    raises for a wrong environment before the first message is taken: a message is acknowledged
    when it is taken, so a worker that cannot work would use it up."""

    def __init__(
        self,
        service: str,
        stage: Stage,
        work: StageWork,
        *,
        prepare: Callable[[], object],
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self.stop_event = threading.Event()
        self.app = create_celery_app(load_settings(RedisSettings))
        self._service = service
        self._stage = stage
        self._work = work
        self._prepare = prepare
        self._on_ready = on_ready
        self.app.task(name=STAGE_TASKS[stage])(self._make_task())
        if (alive_file := load_settings(LivenessSettings).alive_file) is not None:
            heartbeat_sent.connect(lambda **_: alive_file.touch(), weak=False)
        setup_logging.connect(self._configure_logging)
        worker_init.connect(self._check_environment)
        worker_ready.connect(self._start)
        worker_shutting_down.connect(self._request_stop)

    @cached_property
    def redis(self) -> Redis:
        return connect_redis(RedisSettings())

    @cached_property
    def deps(self) -> WorkerDeps:
        return make_worker_deps(self.redis, CeleryJobQueue(self.app), self.stop_event)

    def _make_task(self) -> Callable[[str], None]:
        def run_job(job_id: str) -> None:
            run_stage(self.deps, job_id, self._stage, self._work)

        return run_job

    def _configure_logging(self, **_: Any) -> None:
        configure_logging(self._service, load_settings(LogSettings).level)

    def _check_environment(self, **_: Any) -> None:
        load_settings(LogSettings)
        load_settings(self._prepare)
        load_settings(lambda: self.deps)

    def _start(self, **_: Any) -> None:
        if self._on_ready is not None:
            self._on_ready()

    def _request_stop(self, **_: Any) -> None:
        self.stop_event.set()
