"""The queues of job messages: Celery over Redis, and an in-memory implementation.

A message may be delivered twice or not at all: claiming a job makes the first harmless, and
`reaper.reap_jobs` re-enqueues after the second.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

from celery import Celery, Task, signals
from kombu.exceptions import OperationalError

from qcrd.errors import Transient
from qcrd.records.job import Stage
from qcrd.runtime import telemetry
from qcrd.runtime.jobs.state_machine import STAGE_TASKS
from qcrd.runtime.redis.broker_transport import install_waiting_transport
from qcrd.runtime.settings import RedisSettings


class StageTask(Task):  # type: ignore[misc]  # celery has no types
    """Adds the job's id and the id of the originating request to a task's log lines."""

    def __call__(self, job_id: str) -> Any:
        request_id = getattr(self.request, "x_request_id", None)
        with telemetry.log_context(job_id=job_id, request_id=request_id):
            return super().__call__(job_id)


def _keep_logging_config(**_: Any) -> None:
    """Connected to the signal so that Celery does not configure logging itself."""


def create_celery_app(settings: RedisSettings) -> Celery:
    """An app without tasks; a worker adds its own by `@app.task(name=STAGE_TASKS[stage])`.

    Messages are acknowledged before the work starts and none is prefetched: with late acks, or
    with a prefetch of one, Celery on Redis redelivers a long task while it is running.
    """
    install_waiting_transport()
    signals.setup_logging.connect(_keep_logging_config, weak=False)
    app = Celery("qcrd", broker=settings.url, task_cls=StageTask, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        task_routes={task: {"queue": task} for task in set(STAGE_TASKS.values())},
        task_create_missing_queues=True,
        task_acks_late=False,
        task_ignore_result=True,
        result_backend=None,
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "socket_connect_timeout": 2.0,
            "socket_timeout": 15.0,
            "socket_keepalive": True,
            "health_check_interval": 30,
        },
        task_publish_retry_policy={"max_retries": 3, "interval_start": 0.2, "interval_step": 0.5},
    )
    return app


class JobQueue(Protocol):
    def send(self, stage: Stage, job_id: str, *, countdown: float = 0.0) -> None:
        """Enqueue `stage` of the job, to be delivered `countdown` seconds from now."""

    def count_messages(self, stage: Stage) -> int:
        """Messages that no worker of the stage has taken yet."""


class MemoryJobQueue:
    """Keeps sent messages as `(stage, job_id, countdown)`, for tests."""

    def __init__(self) -> None:
        self.sent: list[tuple[Stage, str, float]] = []
        self._lock = threading.Lock()

    def send(self, stage: Stage, job_id: str, *, countdown: float = 0.0) -> None:
        with self._lock:
            self.sent.append((stage, job_id, countdown))

    def count_messages(self, stage: Stage) -> int:
        with self._lock:
            return sum(STAGE_TASKS[sent] == STAGE_TASKS[stage] for sent, _, _ in self.sent)

    def drain(self) -> list[tuple[Stage, str]]:
        """The messages sent since the last call, in order."""
        with self._lock:
            drained, self.sent = self.sent, []
        return [(stage, job_id) for stage, job_id, _ in drained]


class CeleryJobQueue:
    def __init__(self, app: Celery) -> None:
        self._app = app

    def send(self, stage: Stage, job_id: str, *, countdown: float = 0.0) -> None:
        try:
            self._app.send_task(
                STAGE_TASKS[stage],
                args=[job_id],
                queue=STAGE_TASKS[stage],
                countdown=countdown or None,
                ignore_result=True,
                headers={"x_request_id": telemetry.current_request_id()},
            )
        except OperationalError as error:
            raise Transient(f"the queue takes no messages: {error}") from error

    def count_messages(self, stage: Stage) -> int:
        try:
            with self._app.connection_or_acquire() as connection:
                try:
                    declared = connection.default_channel.queue_declare(
                        queue=STAGE_TASKS[stage], passive=True
                    )
                except connection.channel_errors:
                    return 0  # Redis has no empty lists
                return int(declared.message_count)
        except OperationalError as error:
            message = f"the queue does not answer: {error} (QCRD_REDIS_URL says where it is)"
            raise Transient(message) from error
