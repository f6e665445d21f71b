"""The trainer's Celery worker. It never touches a GPU: a process of its own does, one per job.

Run by `celery -A services.trainer.worker worker -Q train -c 1 --pool=threads`, which wants `app` as
an attribute of the module. Building it connects to nothing.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

from celery.signals import setup_logging, worker_init, worker_shutting_down

from qcrd.records.job import Stage
from qcrd.runtime.jobs.queue import CeleryJobQueue, create_celery_app
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.jobs.state_machine import STAGE_TASKS
from qcrd.runtime.jobs.store import RedisJobStore
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.counters import RedisCounters
from qcrd.runtime.redis.event_log import RedisEventLog
from qcrd.runtime.redis.webhook_queue import RedisWebhookQueue
from qcrd.runtime.settings import (
    LogSettings,
    RecoverySettings,
    RedisSettings,
    StoreSettings,
    load_settings,
)
from qcrd.runtime.storage.store import open_store
from qcrd.runtime.telemetry import configure_logging
from services.trainer.settings import TrainerSettings
from services.trainer.training_process import supervise_training

stopping = threading.Event()
app = create_celery_app(load_settings(RedisSettings))


@lru_cache(maxsize=1)
def get_deps() -> WorkerDeps:
    """What the tasks of this process share, built at the first of them."""
    redis, recovery = connect_redis(RedisSettings()), RecoverySettings()
    return WorkerDeps(
        jobs=RedisJobStore(redis),
        events=RedisEventLog(redis),
        store=open_store(StoreSettings()),
        queue=CeleryJobQueue(app),
        counters=RedisCounters(redis),
        webhook_queue=RedisWebhookQueue(redis),
        is_stopping=stopping.is_set,
        heartbeat=recovery.heartbeat_seconds,
        ttl=recovery.lease_seconds,
    )


def train_job(job_id: str) -> None:
    settings = load_settings(TrainerSettings)
    run_stage(
        get_deps(),
        job_id,
        Stage.TRAINING,
        lambda stage: supervise_training(
            stage, grace_seconds=settings.grace_seconds, processes=settings.processes
        ),
    )


def configure_json_logging(**_: Any) -> None:
    configure_logging("trainer", load_settings(LogSettings).level)


def check_environment(**_: Any) -> None:
    """Before the first message is taken, which would be used up by a worker that cannot work."""
    load_settings(LogSettings)
    load_settings(TrainerSettings)
    load_settings(get_deps)


def request_stop(**_: Any) -> None:
    stopping.set()


app.task(name=STAGE_TASKS[Stage.TRAINING])(train_job)
setup_logging.connect(configure_json_logging)
worker_init.connect(check_environment)
worker_shutting_down.connect(request_stop)
